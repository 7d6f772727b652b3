#define _GNU_SOURCE
#include "Support.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 * 1024 * 1024 };

uint64_t bare_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int bare_direct_flag(void) { return O_DIRECT; }

int bare_sync_file_system(int file) { return syncfs(file) == 0 ? 0 : errno; }

uint64_t bare_job_offset(uint64_t index, uint64_t count) {
  /* A prime far above any count used here: no factor in common, so each block comes once. */
  const uint64_t stride = 2654435761u;
  return (index * stride) % count;
}

uint64_t bare_block_count(const bare_copy *copy) {
  return (copy->length + copy->block - 1) / copy->block;
}

void bare_block_at(const bare_copy *copy, uint64_t index, uint64_t *offset, size_t *length) {
  uint64_t block = copy->scattered ? bare_job_offset(index, bare_block_count(copy)) : index;
  uint64_t start = block * copy->block;
  uint64_t rest = copy->length - start;
  *offset = start;
  *length = rest < copy->block ? (size_t)rest : copy->block;
}

bool bare_copy_is_valid(const bare_copy *copy) {
  return copy->block > 0 && copy->length > 0 && copy->destination_count > 0
      && copy->destination_count <= BARE_MAX_DESTINATIONS;
}

int bare_memory_make(bare_memory *memory, size_t size) {
  size_t whole = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  /* One huge page more than needed, so that an aligned start lies inside. */
  size_t mapping_size = whole + HUGE_PAGE;
  void *mapping =
      mmap(NULL, mapping_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return errno;
  uintptr_t start = ((uintptr_t)mapping + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
  memory->mapping = mapping;
  memory->mapping_size = mapping_size;
  memory->bytes = (uint8_t *)start;
  /* Advice only: where huge pages are switched off the loop still runs, on small pages. */
  madvise(memory->bytes, whole, MADV_HUGEPAGE);
  memset(memory->bytes, 0xa5, size);
  return 0;
}

void bare_memory_free(bare_memory *memory) {
  if (memory->mapping != NULL) munmap(memory->mapping, memory->mapping_size);
  memory->mapping = NULL;
}
