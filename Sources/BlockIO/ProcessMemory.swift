import CBlockIO

/// How the process treats memory.
public enum ProcessMemory {
  /// Keeps freed memory for the next request instead of giving it back to the kernel, for programs
  /// that serve requests; others needn't.
  ///
  /// Network buffers of hundreds of KiB come and go with each request. By itself the C library maps
  /// and unmaps them, or trims the heap behind them, and each page of them is faulted in again: that
  /// was a fifth of the time of a request of 256 KiB. What is kept is bounded: while requests are
  /// under way by their memory, and by 64 MiB at rest. Does something with glibc only.
  public static func keepFreed() {
    blockio_keep_freed_memory(64 << 20)
  }
}
