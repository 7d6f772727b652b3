/*
 * kcopyd.h - copies regions of block devices to others, asynchronously.
 *
 * The interface of kcopyd, the copy engine of Linux's device-mapper, in user space.
 *
 * Units. Addresses and lengths are sectors of 512 bytes, whatever the block size of the device.
 * A file whose length is no multiple of that has a last sector that is only begun: what lies
 * behind the end reads as zeros and isn't written.
 *
 * Results. Functions that return int return 0 or a negative errno: -EINVAL for a NULL argument,
 * an unknown flag or regions that make no sense, -ENOMEM when there isn't enough memory, others
 * as described below. Nothing has been read or written then, and no notification will come.
 *
 * Threads. Every function may be called from any thread. Notifications are called on one thread of
 * the library that all clients share: never from within the call that started the job, never two
 * at once. A notification may start further jobs. It must not wait for anything, because nothing
 * else of the library goes on meanwhile: what waits for jobs or disks by contract -
 * kcopyd_client_destroy, kcopyd_client_flush, kcopyd_block_device_flush - refuses to be called
 * there. The library's threads have all signals blocked. They don't survive a fork: in the
 * child the library must not be used.
 *
 * Durability. A copy that has ended is where a write(2) is: seen by everyone, but not safe from
 * a loss of power. The engine never flushes; kcopyd_block_device_flush does.
 *
 * Lifetime. The regions and the array of them are copied by the call that takes them and may
 * change or go right after it. The devices must stay open, and the context valid, until the
 * notification.
 */
#ifndef KCOPYD_H
#define KCOPYD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint64_t sector_t;

/* ---- Block devices ------------------------------------------------------------------------- */

/* An open regular file or block special. */
struct block_device;

/* How to open. Unlike the flags of jobs these are masks: join them with |. */
#define KCOPYD_OPEN_WRITE (1u << 0)  /* for writing too */
#define KCOPYD_OPEN_DIRECT (1u << 1) /* bypass the page cache or fail; else: where it's better */
#define KCOPYD_OPEN_SHARED (1u << 2) /* a block special that is mounted or held will do */

/*
 * Opens a regular file or a block special that exists; its size is fixed from then on. A block
 * special is opened for exclusive use unless KCOPYD_OPEN_SHARED says otherwise: -EBUSY when it is
 * mounted or held, also by an earlier open of this program - one device serves as source and as
 * destination. -EINVAL for other kinds of files, and for KCOPYD_OPEN_DIRECT where the file system
 * can't; -EILSEQ when `path` isn't UTF-8; otherwise the errno of the system.
 */
int kcopyd_block_device_open(const char *path, unsigned int flags, struct block_device **result);

/* No job that uses the device may be waiting for its notification. NULL is ignored. */
void kcopyd_block_device_close(struct block_device *bdev);

/* The size in sectors, a begun last one counted; of NULL 0. */
sector_t kcopyd_block_device_sectors(const struct block_device *bdev);

/*
 * Makes durable what jobs have written that were notified before. Waits for the disk; -EDEADLK
 * when called from a notification.
 */
int kcopyd_block_device_flush(struct block_device *bdev);

/* ---- Throttles ----------------------------------------------------------------------------- */

/*
 * Slows a group of clients: all that are created with it. Each limit may be changed while jobs
 * run.
 */
struct kcopyd_throttle;

/*
 * A throttle of `percent` of the time: the part of it in which at least one I/O of the group is
 * outstanding. 100 or more is no limit. 0 doesn't stop copying, it delays the start of each I/O by
 * at most a second.
 */
int kcopyd_throttle_create(unsigned int percent, struct kcopyd_throttle **result);

int kcopyd_throttle_set_percent(struct kcopyd_throttle *throttle, unsigned int percent);

/* Limits the bytes that are read, or zeroed, per second as well; 0 is no limit. */
int kcopyd_throttle_set_bytes_per_second(struct kcopyd_throttle *throttle, uint64_t bytes);

/* Gives the throttle up. Clients created with it keep its limits. NULL is ignored. */
void kcopyd_throttle_destroy(struct kcopyd_throttle *throttle);

/* ---- Clients ------------------------------------------------------------------------------- */

/* A reserve of pages and the jobs that share it. */
struct kcopyd_client;

/*
 * Creates a client with a reserve of `num_pages` pages of 4096 bytes, allocated here and now.
 * Jobs are done in pieces - sub-jobs - of 512 KiB or, if that is less, of the whole reserve; up
 * to 8 of a job are under way at once if the reserve holds them: 1024 pages are plenty. -EINVAL
 * for 0 pages.
 */
int kcopyd_client_create(unsigned int num_pages, struct kcopyd_client **result);

/* The same, slowed by `throttle`, which may be NULL. */
int kcopyd_client_create_throttled(unsigned int num_pages, struct kcopyd_throttle *throttle,
                                   struct kcopyd_client **result);

/*
 * Waits until all jobs are over, all their notifications have returned and all prepared
 * callbacks have been fired and called, then frees the client. Nothing new may be started
 * meanwhile: notifications that try get -ESHUTDOWN. Called from a notification it aborts the
 * process, because it would wait for its own end. NULL is ignored.
 */
void kcopyd_client_destroy(struct kcopyd_client *kc);

/*
 * Waits until the notifications that were due have been delivered; doesn't wait for I/O.
 * -EDEADLK when called from a notification.
 */
int kcopyd_client_flush(struct kcopyd_client *kc);

/* ---- Jobs ---------------------------------------------------------------------------------- */

/* `count` sectors of `bdev` from `sector` on. */
struct io_region {
    struct block_device *bdev;
    sector_t sector;
    sector_t count;
};

/* The most destinations of a job: as many as write_err has bits. */
#define KCOPYD_MAX_DESTS 32

/* Flags of jobs are bit numbers: pass 1u << KCOPYD_IGNORE_ERROR. */

/*
 * Go on after errors. Sectors that can't be read are written as zeros - exactly those, everything
 * around them is copied. Without it the first error ends the job: no further piece is started,
 * those under way are finished.
 */
#define KCOPYD_IGNORE_ERROR 1

/*
 * Write each destination strictly in ascending order, so that what is there is always a prefix.
 * Set by itself for zoned devices; ends KCOPYD_IGNORE_ERROR.
 */
#define KCOPYD_WRITE_SEQ 2

/*
 * Called once when a job is over.
 *
 * read_err: 1 when something couldn't be read, else 0.
 * write_err: bit i is set when a write to destination i failed. All ones: writes of the job
 * weren't issued at all, because it had failed before. (With 32 destinations that is also what
 * it looks like when all of them fail.)
 */
typedef void (*kcopyd_notify_fn)(int read_err, unsigned int write_err, void *context);

/*
 * Starts copying the region `from` to the `num_dests` regions `dests`: 1 to 32 of them, each with
 * the count of `from`, or with count 0 - such a destination is ignored. When from->count is 0
 * nothing is copied, whatever the destinations' counts are; the notification comes all the same.
 *
 * Regions aren't compared with the sizes of their devices: what lies beyond the end fails like any
 * other sector, through read_err and write_err, and so does writing to a device that was opened
 * for reading.
 *
 * The source may overlap destinations on the same device that lie all above or all below it; the
 * job is done in the order that keeps it intact. Other overlaps are refused: of destinations with
 * each other, of the source on both sides, and of the source from above with KCOPYD_WRITE_SEQ.
 *
 * There is no order between jobs.
 */
int kcopyd_copy(struct kcopyd_client *kc, struct io_region *from, unsigned int num_dests,
                struct io_region *dests, unsigned int flags, kcopyd_notify_fn fn, void *context);

/*
 * Starts filling the destinations with zeros: by command where every one of them can, otherwise
 * by writing. read_err is always 0.
 */
int kcopyd_zero(struct kcopyd_client *kc, unsigned int num_dests, struct io_region *dests,
                unsigned int flags, kcopyd_notify_fn fn, void *context);

/* A notification to come that belongs to no job. */
struct kcopyd_callback;

/*
 * Prepares a call of `fn`, in sequence with all other notifications. NULL when that isn't
 * possible: for NULL arguments (the context may be NULL), or when the client is being destroyed.
 * It must be fired: kcopyd_client_destroy waits for it.
 */
struct kcopyd_callback *kcopyd_prepare_callback(struct kcopyd_client *kc, kcopyd_notify_fn fn,
                                                void *context);

/*
 * Fires a prepared callback: `fn` is called soon after with these values (a read_err other than 0
 * arrives as 1). Doesn't wait. The token is used up: firing it twice is an error that can't be
 * detected. NULL is ignored.
 */
void kcopyd_do_callback(struct kcopyd_callback *callback, int read_err, unsigned int write_err);

#ifdef __cplusplus
}
#endif

#endif
