/* What the loops share. */
#ifndef BARE_LOOPS_SUPPORT_H
#define BARE_LOOPS_SUPPORT_H

#include "BareLoops.h"

uint64_t bare_now(void);

/* How many blocks a copy has, and where block `index` of them lies. */
uint64_t bare_block_count(const bare_copy *copy);
void bare_block_at(const bare_copy *copy, uint64_t index, uint64_t *offset, size_t *length);

/* Buffers in huge pages, every page already touched. */
typedef struct {
  void *mapping;
  size_t mapping_size;
  uint8_t *bytes;
} bare_memory;

int bare_memory_make(bare_memory *memory, size_t size);
void bare_memory_free(bare_memory *memory);

bool bare_copy_is_valid(const bare_copy *copy);

#endif
