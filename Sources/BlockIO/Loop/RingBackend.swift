#if os(Linux)
  import CBlockIO
  import DequeModule
  import SystemPackage

  /// Transfers through io_uring. The loop sleeps in the ring itself: one call submits what was
  /// prepared, and waits for completions and for other threads.
  final class RingBackend: IOBackend {
    let name = BackendChoice.uring.rawValue
    let waker: LoopWaker

    // Created in `init`, destroyed in `deinit`, used on the loop's thread only.
    private let ring: OpaquePointer
    /// Signalled by other threads; the ring watches it.
    private let event: FileDescriptor
    private var isWatching = false
    /// Who waits for the request of that number.
    private var waiting: [UnsafeContinuation<Int, Never>?] = []
    private var unused: [Int] = []
    /// Beyond the ring's depth requests wait here: whatever is under way finds room to complete.
    private var held: Deque<(TransferRequest, UnsafeContinuation<Int, Never>)> = []
    private let depth: Int
    private var inFlight = 0

    /// Stands for no request but for a signal of other threads.
    private static let wakeup = UInt64.max

    /// A ring of `depth` requests under way at once.
    ///
    /// - Throws: the errno with which the kernel refuses: `ENOSYS` and `EPERM` where io_uring is
    ///   switched off, `EINVAL` where it is too old, `ENOMEM` where the limit of locked memory is
    ///   too low.
    init(depth: UInt32) throws(Errno) {
      let event = blockio_event_create()
      guard event >= 0 else { throw Errno(rawValue: -event) }
      var ring: OpaquePointer?
      let result = blockio_ring_create(depth, &ring)
      guard result == 0, let ring else {
        try? FileDescriptor(rawValue: event).close()
        throw Errno(rawValue: -result)
      }
      self.ring = ring
      self.event = FileDescriptor(rawValue: event)
      self.depth = Int(depth)
      waker = LoopWaker { blockio_event_signal(event) }
    }

    deinit {
      blockio_ring_destroy(ring)
      try? event.close()
    }

    var now: LoopInstant { .monotonic }

    func signalCompletions() throws(Errno) -> FileDescriptor? {
      let result = blockio_ring_signal(ring, event.rawValue)
      guard result == 0 else { throw Errno(rawValue: -result) }
      // The host waits for the event, and other threads have ways of their own to wake it.
      isWatching = true
      return event
    }

    // MARK: Submitting

    func submit(_ request: TransferRequest, completion: UnsafeContinuation<Int, Never>) {
      if inFlight < depth {
        start(request, completion)
      } else {
        held.append((request, completion))
      }
    }

    private func start(_ request: TransferRequest, _ completion: UnsafeContinuation<Int, Never>) {
      inFlight += 1
      let number = unused.popLast() ?? waiting.count
      if number == waiting.count {
        waiting.append(completion)
      } else {
        waiting[number] = completion
      }
      let direction =
        switch request.direction {
        case .read: BLOCKIO_READ
        case .write: BLOCKIO_WRITE
        case .writeDurably: BLOCKIO_WRITE_DURABLE
        }
      // The memory lives until `completion` is resumed; see `TransferRequest`.
      prepare {
        blockio_ring_transfer(
          ring, direction, request.file.rawValue, request.buffer.baseAddress,
          UInt32(request.buffer.count), request.offset, UInt64(number))
      }
    }

    /// Prepares a request, making room for it if need be.
    private func prepare(_ request: () -> Bool) {
      while !request() { enter(.none) }
    }

    // MARK: Completing

    func poll(_ wait: LoopWait) -> Bool {
      if !isWatching {
        isWatching = true
        prepare { blockio_ring_watch(ring, event.rawValue, Self.wakeup) }
      }
      // What has been fetched already is dealt with first, and what is prepared goes on its way.
      let wait = complete() ? .none : wait
      if case .none = wait, !blockio_ring_wants_to_enter(ring) { return true }
      enter(wait)
      _ = complete()
      return true
    }

    private func enter(_ wait: LoopWait) {
      let result =
        switch wait {
        case .none: blockio_ring_enter(ring, false, 0)
        case .untilWoken: blockio_ring_enter(ring, true, -1)
        case .until(let deadline):
          blockio_ring_enter(ring, true, max(0, now.duration(to: deadline).nanoseconds))
        }
      // Only a ring that is broken by its program refuses; its requests would never complete.
      precondition(result == 0, "io_uring: \(Errno(rawValue: -result))")
    }

    /// Resumes everyone whose request is done; false if nothing has happened.
    private func complete() -> Bool {
      var any = false
      var completion = blockio_completion()
      while blockio_ring_complete(ring, &completion) {
        any = true
        guard completion.context != Self.wakeup else {
          isWatching = completion.goes_on
          continue
        }
        let number = Int(completion.context)
        guard let waiter = waiting[number] else {
          preconditionFailure("io_uring completed a request that wasn't made")
        }
        waiting[number] = nil
        unused.append(number)
        inFlight -= 1
        waiter.resume(returning: Int(completion.result))
      }
      while inFlight < depth, let (request, completion) = held.popFirst() {
        start(request, completion)
      }
      return any
    }
  }
#endif
