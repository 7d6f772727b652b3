import BareLoops

/// The bare loops that can do a case.
struct BareEntrants {
  let benchmark: Case
  let tuning: Tuning

  var all: [Entrant] {
    switch benchmark.work {
    case .copy(let destinations): loopsForCopies(to: destinations)
    case .jobs(let depth): loopsForJobs(depth: depth)
    }
  }

  private func loopsForCopies(to destinations: Int) -> [Entrant] {
    let block = tuning.threadBlock.bytes
    let isDirect = benchmark.place.isDirect
    let ringBlock = isDirect ? tuning.ringBlock.bytes : tuning.cachedRingBlock.bytes
    let slots = isDirect ? tuning.ringSlots : tuning.cachedRingSlots
    var loops = rings(slots: slots, block: ringBlock)
    loops += [threads(1, block: block), threads(2, block: block)]
    // With O_DIRECT the kernel has no pages to pass on; it would copy through bounce buffers.
    guard !isDirect else { return loops }
    loops += [copyFileRange(1, block: block), copyFileRange(2, block: block)]
    if destinations == 1 {
      loops.append(loop("loop splice", block: block) { bare_splice(&$0) })
    }
    return loops
  }

  private func loopsForJobs(depth: Int) -> [Entrant] {
    var loops = rings(slots: depth, block: Work.jobSize)
    loops.append(threads(1, block: Work.jobSize))
    // Two threads have two jobs under way: not a way to run them one at a time.
    if depth > 1 { loops.append(threads(2, block: Work.jobSize)) }
    return loops
  }

  private func rings(slots: Int, block: Int) -> [Entrant] {
    let kinds: [(name: String, deferred: Bool, registered: Bool)] = [
      ("loop ring", false, false),
      ("loop ring, deferred", true, false),
      ("loop ring, registered", true, true),
    ]
    return kinds.map { kind in
      let options = bare_ring_options(
        slots: UInt32(slots), deferred: kind.deferred, registered: kind.registered)
      return loop(kind.name, block: block) { bare_ring_copy(&$0, options) }
    }
  }

  private func threads(_ count: UInt32, block: Int) -> Entrant {
    loop("loop threads ×\(count)", block: block) { bare_thread_copy(&$0, count) }
  }

  private func copyFileRange(_ count: UInt32, block: Int) -> Entrant {
    loop("loop copy_file_range ×\(count)", block: block) { bare_copy_file_range(&$0, count) }
  }

  private func loop(
    _ name: String, block: Int, _ body: @escaping (inout bare_copy) -> bare_result
  ) -> Entrant {
    let isScattered =
      switch benchmark.work {
      case .copy: false
      case .jobs: true
      }
    return Entrant(name: name, kind: .loop) { files throws(BenchmarkError) in
      let source = try files.open(files.source)
      var destinations: [Descriptor] = []
      for path in files.inPlaceDestinations { destinations.append(try files.open(path)) }
      let result = withExtendedLifetime((source, destinations)) {
        destinations.map(\.number).withUnsafeBufferPointer { numbers in
          var copy = bare_copy(
            source: source.number, destinations: numbers.baseAddress,
            destination_count: UInt32(numbers.count), length: UInt64(files.benchmark.length),
            block: block, scattered: isScattered)
          return body(&copy)
        }
      }
      guard result.error == 0 else { throw .loop(name: name, errno: result.error) }
      return Entrant.Sample(seconds: Double(result.elapsed_ns) / 1e9)
    }
  }
}
