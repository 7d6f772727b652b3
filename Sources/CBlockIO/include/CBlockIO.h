// What the operating system offers and Swift's C modules leave out: calls behind
// macros, constants of newer kernels, ioctls. Thin, no logic of the project.
#ifndef CBLOCKIO_H
#define CBLOCKIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

// An address-sized name of the calling thread, valid while it lives.
static inline uintptr_t blockio_current_thread(void) { return (uintptr_t)pthread_self(); }

// Nanoseconds of the monotonic clock.
static inline int64_t blockio_monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

// Each returns 0 or a positive result, or a negative errno.

// Size in bytes and block sizes of an open block special.
int blockio_block_device_geometry(int fd, uint64_t *bytes, uint32_t *logical, uint32_t *physical,
                                  uint32_t *optimal, bool *read_only);
int blockio_write_zeroes(int fd, bool block_device, uint64_t offset, uint64_t bytes,
                         bool may_unmap);
int blockio_discard(int fd, bool block_device, uint64_t offset, uint64_t bytes);
// The size in bytes now.
int64_t blockio_size(int fd, bool block_device);
// Makes a regular file longer.
int blockio_extend(int fd, uint64_t bytes);
// Takes an advisory lock without waiting; -EWOULDBLOCK where another holds one.
int blockio_lock(int fd, bool exclusive);
// Ends the non-blocking mode of an open file.
int blockio_set_blocking(int fd);
// Puts data, and what is needed to find them again, on stable storage.
int blockio_sync_data(int fd);
// The alignment that O_DIRECT wants of addresses and of offsets; 0 where it can't say.
void blockio_direct_alignment(int fd, uint32_t *memory, uint32_t *offset);
// The flag that keeps a file out of the page cache at open, 0 where there is none.
int blockio_open_direct_flag(void);
// macOS asks for the same with a call on the open file.
int blockio_set_uncached(int fd);
bool blockio_is_memory_file_system(int fd);
// The device and inode of the file behind a loop device that shows it from its first byte on.
int blockio_loop_backing(int fd, uint64_t *device, uint64_t *inode);

ssize_t blockio_pread(int fd, void *buffer, size_t bytes, uint64_t offset);
ssize_t blockio_pwrite(int fd, const void *buffer, size_t bytes, uint64_t offset);
// As above, but -EAGAIN instead of waiting for a disk.
ssize_t blockio_pread_nowait(int fd, void *buffer, size_t bytes, uint64_t offset);
ssize_t blockio_pwrite_nowait(int fd, const void *buffer, size_t bytes, uint64_t offset);
// As pwrite, and durable when it returns.
ssize_t blockio_pwrite_durable(int fd, const void *buffer, size_t bytes, uint64_t offset);

// Where data (hole = false) or the next hole starts, at or behind offset.
int64_t blockio_seek_extent(int fd, bool hole, uint64_t offset);

// Memory aligned to `alignment` (a power of two), in huge pages where the system has
// them, and backed at once. NULL: errno says why.
void *blockio_map(size_t bytes, size_t alignment);
void blockio_unmap(void *base, size_t bytes);
// The memory of the machine in bytes.
uint64_t blockio_physical_memory(void);

// An event counter to sleep on (Linux). wait: nanoseconds, negative for ever; EINTR counts as
// woken.
int blockio_event_create(void);
void blockio_event_signal(int fd);
void blockio_event_wait(int fd, int64_t nanoseconds);

// Whether the process was started with that signal ignored, as nohup does.
bool blockio_ignores_signal(int number);

// Name of the calling thread, as debuggers and top show it.
void blockio_name_thread(const char *name);

#endif
