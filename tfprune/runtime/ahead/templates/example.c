/* Runs ${name} once, as C calls it. Made by tfprune $version; yours to change.

   example [FILE]   FILE has the numbers of ${name}.h's inputs, one input after the other: a byte each, or a float each,
                    as this machine stores it. Without it: zeros. */

#define _DEFAULT_SOURCE
#include "${name}.h"

#include <stdio.h>

#define NUMBERS ($all_inputs)

$arena
static union {
    float given[NUMBERS];
    uint8_t bytes[NUMBERS];
} input;
static float results[$all_outputs];
static const struct {
    const char *name;
    int numbers;
} outputs[] = {$output_parts};

int main(int argc, char **argv) {
    if (${name}_checksum() != ${NAME}_CHECKSUM) {
        fprintf(stderr, "the library is not the header's: made of another network\n");
        return 1;
    }
    ask_for_large_pages();
    size_t size = NUMBERS;
    if (argc > 1) {
        FILE *file = fopen(argv[1], "rb");
        size = file ? fread(&input, 1, sizeof input, file) : 0;
        int more = file && fgetc(file) != EOF;
        if (file) fclose(file);
        if (more || (size != NUMBERS && size != sizeof input)) {
            fprintf(stderr, "%s must have %zu bytes, or %zu for floats\n", argv[1], (size_t)NUMBERS, sizeof input);
            return 1;
        }
    }
    float *given = input.given;
    uint8_t *bytes = input.bytes;
    if (size == NUMBERS)
        ${name}_run_uint8(arena, $bytes_given, $results_taken);
    else
        ${name}_run(arena, $floats_given, $results_taken);
    const float *result = results;
    for (size_t o = 0; o < sizeof outputs / sizeof *outputs; result += outputs[o++].numbers) {
        int largest = 0;
        for (int i = 0; i < outputs[o].numbers; i++) {
            printf("%s%d %.9g\n", outputs[o].name, i, (double)result[i]);
            if (result[i] > result[largest]) largest = i;
        }
        printf("%slargest %d\n", outputs[o].name, largest);
    }
    return 0;
}
