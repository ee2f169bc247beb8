/* Static memory is zero at the start, as the arena must be. Linux is asked for large pages: with small ones the page
   faults of the first image take half as long as the image. */
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef MADV_HUGEPAGE
_Alignas(1 << 21) static unsigned char arena[${NAME}_ARENA_BYTES];
static void ask_for_large_pages(void) { madvise(arena, sizeof arena, MADV_HUGEPAGE); }
#else
_Alignas(${NAME}_ARENA_ALIGNMENT) static unsigned char arena[${NAME}_ARENA_BYTES];
static void ask_for_large_pages(void) {}
#endif
