/* Classifies an image: ${name} as C calls it. Made by tfprune $version; yours to change.

   example [FILE]   FILE has ${height} x ${width} x ${channels} bytes: rows, columns, channels. Without it: a grey image. */

#define _DEFAULT_SOURCE
#include "${name}.h"

#include <stdio.h>

$arena
static uint8_t image[${NAME}_IMAGE_NUMBERS];
static float output[${NAME}_CLASSES];

int main(int argc, char **argv) {
    if (${name}_checksum() != ${NAME}_CHECKSUM) {
        fprintf(stderr, "the library is not the header's: made of another network\n");
        return 1;
    }
    ask_for_large_pages();
    for (int i = 0; i < ${NAME}_IMAGE_NUMBERS; i++) image[i] = 128;
    if (argc > 1) {
        FILE *file = fopen(argv[1], "rb");
        int fits = file && fread(image, 1, sizeof image, file) == sizeof image && fgetc(file) == EOF;
        if (file) fclose(file);
        if (!fits) {
            fprintf(stderr, "%s must have %d bytes\n", argv[1], ${NAME}_IMAGE_NUMBERS);
            return 1;
        }
    }
    ${name}_run_uint8(arena, image, output);
    int best = 0;
    for (int i = 0; i < ${NAME}_CLASSES; i++) {
        printf("%d %.9g\n", i, (double)output[i]);
        if (output[i] > output[best]) best = i;
    }
    printf("class %d\n", best);
    return 0;
}
