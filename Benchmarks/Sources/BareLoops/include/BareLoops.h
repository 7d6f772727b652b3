/*
 * The limit: the shortest loops that move the same bytes, with no engine around them.
 *
 * Every function opens nothing and verifies nothing; it moves `length` bytes from the source to
 * the same offsets of every destination and says how long that took. Rings, buffers and pipes
 * are made before the clock starts.
 */
#ifndef BARE_LOOPS_H
#define BARE_LOOPS_H

#ifndef __linux__
#error "The bare loops are Linux only."
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  BARE_MAX_DESTINATIONS = 8,
  BARE_MAX_THREADS = 16,
  BARE_MAX_PROCESSES = 8,
  BARE_MAX_COWS = 16
};

/* What is copied. A scattered copy visits its blocks in the order of `bare_job_offset`. */
typedef struct {
  int source;
  const int *destinations;
  unsigned destination_count;
  uint64_t length;
  size_t block;
  bool scattered;
} bare_copy;

/* `error` is an errno, 0 when every byte was moved. */
typedef struct {
  uint64_t elapsed_ns;
  int error;
} bare_result;

typedef struct {
  unsigned slots;  /* blocks in flight, each with a buffer of its own */
  bool deferred;   /* IORING_SETUP_DEFER_TASKRUN instead of IORING_SETUP_COOP_TASKRUN */
  bool registered; /* buffers and files registered with the ring */
} bare_ring_options;

/* What the processes of one run cost. */
typedef struct {
  uint64_t peak_kib; /* sum of the processes' peak resident memory */
  int failed;        /* index of the first process that failed, -1 when none did */
  int status;        /* that process's wait status */
} bare_usage;

/* `O_DIRECT`, whose value differs from machine to machine. */
int bare_direct_flag(void);

/* syncfs(2); an errno, 0 when done. */
int bare_sync_file_system(int file);

/* Where job `index` of `count` lies, in blocks: every block once, neighbours far apart. */
uint64_t bare_job_offset(uint64_t index, uint64_t count);

/* Each slot reads a block, writes it to all destinations, takes the next block. */
bare_result bare_ring_copy(const bare_copy *copy, bare_ring_options options);

/* Each thread takes the next block, reads it, writes it to all destinations. */
bare_result bare_thread_copy(const bare_copy *copy, unsigned threads);

/* The same, the kernel moving the bytes. */
bare_result bare_copy_file_range(const bare_copy *copy, unsigned threads);

/* File to pipe to file, one destination, one thread. */
bare_result bare_splice(const bare_copy *copy);

/* First writes of 4 KiB to chunks of an origin whose snapshots keep what was there. */
typedef struct {
  int origin;
  const int *cows;
  unsigned cow_count;
  /* The chunks, and how many: up to a sixteenth of the bytes of one. */
  const uint64_t *order;
  uint64_t count;
  /* Bytes of a chunk. */
  uint64_t chunk;
  /* Each COW file has its own thread; otherwise one does everything. */
  bool thread_per_cow;
} bare_first_writes;

/*
 * For each chunk: read it, write it to every COW file, sync that, write the block of the list of
 * exceptions that names it, synced, and then write to the origin.
 */
bare_result bare_first_writes_run(const bare_first_writes *work);

/*
 * Runs `count` commands at once and waits for all of them. `arguments` holds their argument
 * lists one after the other, each closed by NULL. Standard error goes to `error_output`.
 */
bare_result bare_run_processes(
    char *const *arguments, unsigned count, int error_output, bare_usage *usage);

#endif
