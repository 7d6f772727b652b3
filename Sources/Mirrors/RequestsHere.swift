import BlockIO

// Requests that have nothing to wait for, in the task that asks for them: where that runs on the
// loop already, the change to the actor and back would take longer than starting the I/O.

extension Mirror {
  // MARK: Reading

  /// Begins a read in the calling task, if that runs on the loop and all regions are in sync.
  ///
  /// - Returns: the leg, for ``readHere(_:from:into:)``.
  nonisolated func beginReadHere(_ sectors: Range<Sector>) -> Int? {
    guard loop.isCurrent, !sectors.isEmpty else { return nil }
    return assumeIsolated { mirror in
      let touched = mirror.parameters.regionSize.regions(touching: sectors)
      guard mirror.isResumed, !mirror.isSuspending, touched.allSatisfy(mirror.log.isInSync),
        let index = mirror.legToRead(isInSync: true, trusted: mirror.defaultLeg, except: [])
      else { return nil }
      mirror.requests.add(1)
      mirror.legs[index].reads += 1
      return index
    }
  }

  /// Does that read; from another leg, if this one fails.
  nonisolated func readHere(
    _ sectors: Range<Sector>, from index: Int, into buffer: IOBuffer
  ) async throws(IOFailure) {
    defer { endReadHere() }
    do throws(IOFailure) {
      defer { endReadHere(of: index) }
      let place = places[index]
      return try await place.device.read(sectors.shifted(by: place.offset), into: buffer)
    } catch {
      await noteFailedRead(index, error, isInSync: true)
      try await read(sectors, isInSync: true, into: buffer, tried: [index], last: error)
    }
  }

  private nonisolated func endReadHere(of leg: Int) {
    assumeIsolated { $0.legs[leg].reads -= 1 }
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
    let write = { @Sendable (leg: MirrorLeg) async -> IOFailure? in
      do throws(IOFailure) {
        try await leg.device.write(sectors.shifted(by: leg.offset), from: buffer, options: options)
        return nil
      } catch {
        return error
      }
    }
    // The last leg by this task itself: one task less to be made.
    let last = places.count - 1
    return await withTaskGroup(of: (Int, IOFailure?).self) { group in
      for index in 0..<last {
        let leg = places[index]
        group.addTask(executorPreference: loop) { (index, await write(leg)) }
      }
      var failures: [IOFailure?] = []
      func note(_ index: Int, _ failure: IOFailure?) {
        guard let failure else { return }
        if failures.isEmpty { failures = Array(repeating: nil, count: last + 1) }
        failures[index] = failure
      }
      note(last, await write(places[last]))
      for await (index, failure) in group { note(index, failure) }
      return failures
    }
  }
}
