#if os(Linux)
  import CBlockIO
  import DequeModule
  import SystemPackage

  /// Transfers through io_uring; sleeps on an eventfd that completions and other threads signal.
  final class RingBackend: IOBackend {
    let name = BackendChoice.uring.rawValue
    let waker: LoopWaker

    private var ring: IORing
    private let event: FileDescriptor
    /// Who waits for the request of that number. Requests carry number + 1: the ring itself uses
    /// the context 0.
    private var waiting: [UnsafeContinuation<Int, Never>?] = []
    private var unused: [Int] = []
    private var hasPrepared = false
    /// Beyond the ring's depth requests wait here. Were they submitted, completions could find no
    /// room; the kernel then keeps them back until it is entered in a way this loop never does.
    private var held: Deque<(TransferRequest, UnsafeContinuation<Int, Never>)> = []
    private let depth: Int
    private var inFlight = 0
    /// A ring is replaced after so many requests: swift-system 1.8 counts them in 32 bits and traps
    /// when these are used up.
    private let requestsPerRing: UInt64
    private var requestsOfRing: UInt64 = 0

    /// A ring of `depth` requests under way at once.
    ///
    /// - Throws: the errno with which the kernel refuses: `ENOSYS` and `EPERM` where io_uring is
    ///   switched off, `ENOMEM` where the limit of locked memory is too low.
    init(depth: UInt32, requestsPerRing: UInt64 = 1 << 31) throws(Errno) {
      ring = try Self.makeRing(depth)
      self.depth = Int(depth)
      self.requestsPerRing = requestsPerRing
      let event = blockio_event_create()
      guard event >= 0 else { throw Errno(rawValue: -event) }
      self.event = FileDescriptor(rawValue: event)
      waker = LoopWaker { blockio_event_signal(event) }
      try ring.registerEventFD(self.event)
    }

    deinit { try? event.close() }

    private static func makeRing(_ depth: UInt32) throws(Errno) -> IORing {
      // Cooperative task running, single issuer: without the first every completion interrupts
      // the loop, which costs a factor of three to four.
      try IORing(queueDepth: depth, flags: .init(rawValue: 1 << 8 | 1 << 12))
    }

    private func replaceRing() {
      do throws(Errno) {
        ring = try Self.makeRing(UInt32(depth))
        try ring.registerEventFD(event)
        requestsOfRing = 0
      } catch {
        // What is held could never be done.
        preconditionFailure("io_uring gives no second ring: \(error)")
      }
    }

    var now: LoopInstant { monotonicNow() }

    func submit(_ request: TransferRequest, completion: UnsafeContinuation<Int, Never>) {
      if mayStart {
        start(request, completion)
      } else {
        held.append((request, completion))
      }
    }

    private var mayStart: Bool { inFlight < depth && requestsOfRing < requestsPerRing }

    private func start(_ request: TransferRequest, _ completion: UnsafeContinuation<Int, Never>) {
      inFlight += 1
      requestsOfRing += 1
      let number = unused.popLast() ?? waiting.count
      if number == waiting.count {
        waiting.append(completion)
      } else {
        waiting[number] = completion
      }
      while !ring.prepare(request: Self.prepared(request, number: number)) { submitPrepared() }
      hasPrepared = true
    }

    private static func prepared(_ request: TransferRequest, number: Int) -> IORing.Request {
      let context = UInt64(number + 1)
      return switch request.direction {
      case .read:
        .read(request.file, into: request.buffer, at: request.offset, context: context)
      case .write:
        .write(request.buffer, into: request.file, at: request.offset, context: context)
      }
    }

    private func submitPrepared() {
      hasPrepared = false
      do {
        try ring.submitPreparedRequests()
      } catch {
        // Only a ring that is broken by its program refuses; its requests would never complete.
        preconditionFailure("io_uring refused requests: \(error)")
      }
    }

    func poll(_ wait: LoopWait) -> Bool {
      if hasPrepared { submitPrepared() }
      if complete() { return true }
      switch wait {
      case .none: return true
      case .untilWoken: blockio_event_wait(event.rawValue, -1)
      case .until(let deadline):
        blockio_event_wait(event.rawValue, max(0, now.duration(to: deadline).nanoseconds))
      }
      _ = complete()
      return true
    }

    /// Resumes everyone whose request is done; false if there was none.
    private func complete() -> Bool {
      var any = false
      while let completion = ring.tryConsumeCompletion() {
        any = true
        let number = Int(completion.context) - 1
        guard number >= 0, let waiter = waiting[number] else {
          preconditionFailure("io_uring completed a request that wasn't made")
        }
        waiting[number] = nil
        unused.append(number)
        inFlight -= 1
        waiter.resume(returning: Int(completion.result))
      }
      if requestsOfRing >= requestsPerRing, inFlight == 0 { replaceRing() }
      while mayStart, let (request, completion) = held.popFirst() {
        start(request, completion)
      }
      return any
    }
  }
#endif
