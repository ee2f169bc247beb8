/* A pruned network as a C library, made by tfprune $version. Made, not written: do not edit.

   Network: $nodes operations. It takes
$inputs
   and gives
$outputs

   ARENA. The network's values lie in memory that the caller gives: ${NAME}_ARENA_BYTES bytes of zeros, such as
   a static array or memory from calloc, at an address that ${NAME}_ARENA_ALIGNMENT divides (8 is enough, and
   slower). It stays the caller's and is used again by later calls, as it is. Calls with different arenas may
   run at the same time; the library has no memory of its own, allocates none, and calls no function.

   INPUT. The numbers that the Keras model took, in the order of C's arrays: an image's plain pixels by rows, columns,
   channels, 0 to 255 where the model took these; a text's tokens as floats. Normalization is part of the network.

   OUTPUT. As the Keras model's. A NaN in the input does not pass through removed weights; the next call finds nothing
   of it. */

#ifndef ${NAME}_H
#define ${NAME}_H

#include <stdint.h>

$sizes
/* What ${name}_checksum() returns: compare them to see that header and library belong together. */
#define ${NAME}_CHECKSUM UINT32_C($checksum)
#define ${NAME}_VERSION "$version"
#define ${NAME}_ARENA_ALIGNMENT 64

$arenas

#ifdef __cplusplus
extern "C" {
#endif

/* Runs the network: on floats, or on inputs that are all whole numbers from 0 to 255. */
void ${name}_run(void *arena, $floats, $results);
void ${name}_run_uint8(void *arena, $bytes, $results);

#if ${NAME}_THREADS
/* The same on several threads. One thread calls begin; then each of them calls work with its number, from 0, and
   their count; when all have returned, one calls end. The inputs must stay as they are until then. `wait` is called
   now and then by a thread that waits for the others, to let them have its core (sched_yield); it may be NULL. The
   output is the same to the last bit for any count; of more than ${NAME}_THREADS, those beyond return at once. */
void ${name}_begin(void *arena, $floats, void (*wait)(void));
void ${name}_begin_uint8(void *arena, $bytes, void (*wait)(void));
void ${name}_work(void *arena, int32_t thread, int32_t threads);
void ${name}_end(void *arena, $results);
#endif

/* Returns which of the processors that the library has code for an arena is used on, the best as 0: known after the
   first call with it.${processors} */
int32_t ${name}_processor(const void *arena);
uint32_t ${name}_checksum(void);

#ifdef __cplusplus
}
#endif

#endif
