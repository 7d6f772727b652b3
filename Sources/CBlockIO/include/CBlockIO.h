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

// Has freed memory stay in the process up to `resting` bytes, and pieces of less than 32 MiB come
// from there.
void blockio_keep_freed_memory(size_t resting);

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
// Lets the cached pages of a file go that are on stable storage.
int blockio_drop_cache(int fd);
// Makes the whole of file `to` share the blocks of `from`.
int blockio_clone(int to, int from);
// How many bytes of storage a regular file takes.
int64_t blockio_allocated(int fd);
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
// What is behind a loop device – a file, or a block special if special_device isn't 0 – and from
// which byte on; size_limit 0: to its end. A partition of a loop device answers for the whole one.
struct blockio_loop_backing {
    uint64_t device, inode, special_device, offset, size_limit;
};
int blockio_loop_backing(int fd, struct blockio_loop_backing *backing);

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

// An event counter that wakes whoever watches it (Linux).
int blockio_event_create(void);
void blockio_event_signal(int fd);

#ifdef __linux__
// A ring of io_uring requests. All functions are for the thread that created it alone.
typedef struct blockio_ring blockio_ring;

typedef enum { BLOCKIO_READ, BLOCKIO_WRITE, BLOCKIO_WRITE_DURABLE } blockio_direction;

typedef struct {
    uint64_t context;
    // As the call would return it, or a negative errno.
    int32_t result;
    // Whether there will be more completions of the same request.
    bool goes_on;
} blockio_completion;

int blockio_ring_create(uint32_t entries, blockio_ring **result);
// From any thread, when nothing is under way.
void blockio_ring_destroy(blockio_ring *ring);
// Prepares a request; false when the ring has to be entered first. The memory must live until the
// request has completed.
bool blockio_ring_transfer(blockio_ring *ring, blockio_direction direction, int fd, void *buffer,
                           uint32_t bytes, uint64_t offset, uint64_t context);
// Prepares a completion for each time the event counter is signalled, for as long as it goes on.
bool blockio_ring_watch(blockio_ring *ring, int event, uint64_t context);
// Has the kernel signal an event counter when there is something to complete.
int blockio_ring_signal(blockio_ring *ring, int event);
// Whether requests wait to be submitted, or completions to be fetched by entering.
bool blockio_ring_wants_to_enter(blockio_ring *ring);
// Submits what is prepared and fetches completions; waits for one, at most so long, negative for
// ever. Returning early is no error.
int blockio_ring_enter(blockio_ring *ring, bool waits, int64_t nanoseconds);
// Takes the next completion that was fetched.
bool blockio_ring_complete(blockio_ring *ring, blockio_completion *completion);
#endif

// Whether the process was started with that signal ignored, as nohup does.
bool blockio_ignores_signal(int number);

// Sends a datagram to a Unix socket; '@' first stands for an abstract address. 0 or -errno.
int blockio_send_datagram(const char *path, const char *text);

// Name of the calling thread, as debuggers and top show it.
void blockio_name_thread(const char *name);

#endif
