import BlockIO

// Writes to regions that are in use already, in the task that asks for them.

extension Mirror {
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
