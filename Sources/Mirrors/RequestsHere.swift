import BlockIO

// Requests that have nothing to wait for, in the task that asks for them: where that runs on the
// loop already, the change to the actor and back would take longer than starting the I/O.

extension Mirror {
  // MARK: Reading

  /// Begins a read in the calling task, if that runs on the loop and all regions are in sync.
  ///
  /// - Returns: the request to a leg, for ``readHere(_:by:into:)``.
  nonisolated func beginReadHere(_ sectors: Range<Sector>) -> LegRequest? {
    guard loop.isCurrent, !sectors.isEmpty else { return nil }
    return assumeIsolated { mirror in
      let touched = mirror.parameters.regionSize.regions(touching: sectors)
      guard mirror.isResumed, !mirror.isSuspending, touched.allSatisfy(mirror.log.isInSync),
        let index = mirror.legToRead(isInSync: true, trusted: mirror.defaultLeg, except: [])
      else { return nil }
      mirror.requests.add(1)
      mirror.legs[index].reads += 1
      return mirror.begin(.read, index, sectors)
    }
  }

  /// Does that read; from another leg, if this one fails.
  nonisolated func readHere(
    _ sectors: Range<Sector>, by request: LegRequest, into buffer: IOBuffer
  ) async throws(IOFailure) {
    defer { endReadHere() }
    let index = request.leg
    do throws(IOFailure) {
      let place = places[index]
      try await place.device.read(sectors.shifted(by: place.offset), into: buffer)
      endReadHere(request, isDone: true)
    } catch {
      endReadHere(request, isDone: false)
      await noteFailedRead(index, error, isInSync: true)
      try await read(sectors, isInSync: true, into: buffer, tried: [index], last: error)
    }
  }

  private nonisolated func endReadHere(_ request: LegRequest, isDone: Bool) {
    assumeIsolated { mirror in
      mirror.legs[request.leg].reads -= 1
      mirror.end(request, isDone: isDone)
    }
  }

  private nonisolated func endReadHere() { assumeIsolated { $0.endRequest() } }

  // MARK: Writing

  /// Begins a write in the calling task, if that runs on the loop and nothing has to be done first:
  /// its regions are in sync, marked on the disk, and not being copied or compared.
  ///
  /// - Returns: the regions, for ``writeHere(_:_:from:options:)``.
  nonisolated func beginWriteHere(_ sectors: Range<Sector>) -> Range<Region>? {
    guard loop.isCurrent, !sectors.isEmpty, sectors.length <= Self.pieceLimit else { return nil }
    return assumeIsolated { mirror in
      let touched = mirror.parameters.regionSize.regions(touching: sectors)
      guard mirror.isResumed, !mirror.isSuspending, mirror.areSettled(touched) else { return nil }
      mirror.requests.add(1)
      mirror.begin(touched)
      return touched
    }
  }

  private func areSettled(_ touched: Range<Region>) -> Bool {
    touched.allSatisfy {
      log.isInSync($0) && log.isMarkedDurably($0) && regions[$0]?.isRecovering != true
    }
  }

  /// Does that write, on all legs at once.
  nonisolated func writeHere(
    _ sectors: Range<Sector>, _ touched: Range<Region>, from buffer: IOBuffer,
    options: WriteOptions
  ) async throws(IOFailure) {
    defer { endWriteHere(touched) }
    let failures = await writeToAll(sectors, from: buffer, options: options)
    if !failures.allSatisfy({ $0 == nil }) { try await settle(failures, of: sectors, touched) }
  }

  private nonisolated func endWriteHere(_ touched: Range<Region>) {
    assumeIsolated { mirror in
      mirror.end(touched)
      mirror.endRequest()
    }
  }

  /// - Returns: the failure of each leg; none at all when all went well.
  private nonisolated func writeToAll(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async -> [IOFailure?] {
    let write = { @Sendable (leg: Int) async -> IOFailure? in
      await self.counted(.write, leg, sectors) { device, sectors throws(IOFailure) in
        try await device.write(sectors, from: buffer, options: options)
      }
    }
    // The last leg by this task itself: one task less to be made.
    let last = places.count - 1
    return await withTaskGroup(of: (Int, IOFailure?).self) { group in
      for index in 0..<last {
        group.addTask(executorPreference: loop) { (index, await write(index)) }
      }
      var failures: [IOFailure?] = []
      func note(_ index: Int, _ failure: IOFailure?) {
        guard let failure else { return }
        if failures.isEmpty { failures = Array(repeating: nil, count: last + 1) }
        failures[index] = failure
      }
      note(last, await write(last))
      for await (index, failure) in group { note(index, failure) }
      return failures
    }
  }
}
