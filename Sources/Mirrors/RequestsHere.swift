import BlockIO

// Requests that have nothing to wait for, in the task that asks for them: where that runs on the
// loop already, the change to the actor and back would take longer than starting the I/O.

extension Mirror {
  // MARK: Reading

  /// How far a read has come in the calling task.
  enum ReadHere {
    /// It is done.
    case done
    /// It is to be made to that leg, by ``finishReadHere(_:by:into:)``.
    case begun(LegRequest)
    /// That leg couldn't be read: it is for ``readHere(_:into:after:_:)``.
    case failed(leg: Int, IOFailure)
    /// It has to wait for something: it is for the actor.
    case elsewhere
  }

  /// Begins a read in the calling task, if that runs on the loop and all regions are in sync. A leg
  /// that can do it on the spot has been read then.
  nonisolated func beginReadHere(_ sectors: Range<Sector>, into buffer: IOBuffer) -> ReadHere {
    guard loop.isCurrent, !sectors.isEmpty else { return .elsewhere }
    return assumeIsolated { $0.readOnTheSpot(sectors, into: buffer) }
  }

  private func readOnTheSpot(_ sectors: Range<Sector>, into buffer: IOBuffer) -> ReadHere {
    let touched = parameters.regionSize.regions(touching: sectors)
    guard isResumed, !isSuspending, touched.allSatisfy(log.isInSync),
      let index = legToRead(isInSync: true, trusted: defaultLeg, except: [])
    else { return .elsewhere }
    // Nothing else can happen until the end of this function.
    let leg = legs[index]
    var now = loop.now
    do throws(IOFailure) {
      if try leg.device.readNow(leg.sectors(of: sectors), into: buffer) {
        note(.read, leg, sectors, since: &now, isDone: true)
        return .done
      }
    } catch {
      note(.read, leg, sectors, since: &now, isDone: false)
      requests.add(1)
      return .failed(leg: index, error)
    }
    requests.add(1)
    leg.reads += 1
    return .begun(begin(.read, index, sectors))
  }

  /// Does that read; from another leg, if this one fails.
  nonisolated func finishReadHere(
    _ sectors: Range<Sector>, by request: LegRequest, into buffer: IOBuffer
  ) async throws(IOFailure) {
    let index = request.leg
    do throws(IOFailure) {
      let place = places[index]
      try await place.device.read(sectors.shifted(by: place.offset), into: buffer)
    } catch {
      endReadHere(request, isDone: false)
      return try await readHere(sectors, into: buffer, after: index, error)
    }
    endReadHere(request, isDone: true)
    endReadHere()
  }

  /// Reads from another leg than the one that failed.
  nonisolated func readHere(
    _ sectors: Range<Sector>, into buffer: IOBuffer, after index: Int, _ failure: IOFailure
  ) async throws(IOFailure) {
    defer { endReadHere() }
    await noteFailedRead(index, failure, isInSync: true)
    try await read(sectors, into: buffer, tried: [index], last: failure)
  }

  private nonisolated func endReadHere(_ request: LegRequest, isDone: Bool) {
    assumeIsolated { mirror in
      mirror.legs[request.leg].reads -= 1
      mirror.end(request, isDone: isDone)
    }
  }

  private nonisolated func endReadHere() { assumeIsolated { $0.endRequest() } }

  // MARK: Writing

  /// How far a write has come in the calling task.
  enum WriteHere {
    /// It is done.
    case done
    /// It has begun, and is to be given to ``finishWriteHere(_:_:from:options:)``.
    case begun(WriteUnderWay)
    /// It has to wait for something: it is for the actor.
    case elsewhere
  }

  struct WriteUnderWay: Sendable {
    fileprivate let touched: Range<Region>
    /// The legs that it isn't on yet and that haven't failed.
    fileprivate var rest: [Int] = []
    /// The failure of each leg; none at all while all goes well.
    fileprivate var failures: [IOFailure?] = []
  }

  /// Begins a write in the calling task, if that runs on the loop and nothing has to be done first:
  /// its regions are in sync, marked on the disk, and not being copied or compared. Legs that can do it
  /// on the spot have it then.
  nonisolated func beginWriteHere(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) -> WriteHere {
    guard loop.isCurrent, !sectors.isEmpty, sectors.length <= Self.pieceLimit else {
      return .elsewhere
    }
    return assumeIsolated { $0.writeOnTheSpot(sectors, from: buffer, options: options) }
  }

  private func writeOnTheSpot(
    _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) -> WriteHere {
    let touched = parameters.regionSize.regions(touching: sectors)
    guard isResumed, !isSuspending, areSettled(touched) else { return .elsewhere }
    // Nothing else can happen until the end of this function.
    var write = WriteUnderWay(touched: touched)
    var now = loop.now
    for (index, leg) in legs.enumerated() {
      do throws(IOFailure) {
        let isDone = try leg.device.writeNow(
          leg.sectors(of: sectors), from: buffer, options: options)
        guard isDone else {
          write.rest.append(index)
          continue
        }
        note(.write, leg, sectors, since: &now, isDone: true)
      } catch {
        note(.write, leg, sectors, since: &now, isDone: false)
        write.note(error, of: index, legCount: legs.count)
      }
    }
    if write.rest.isEmpty, write.failures.isEmpty {
      noteWritten(touched, at: now)
      return .done
    }
    requests.add(1)
    begin(touched)
    return .begun(write)
  }

  private func areSettled(_ touched: Range<Region>) -> Bool {
    touched.allSatisfy {
      log.isInSync($0) && log.isMarkedDurably($0) && regions[$0]?.isRecovering != true
    }
  }

  /// Does what is left of that write, on all legs at once.
  nonisolated func finishWriteHere(
    _ write: WriteUnderWay, _ sectors: Range<Sector>, from buffer: IOBuffer, options: WriteOptions
  ) async throws(IOFailure) {
    defer { endWriteHere(write.touched) }
    var write = write
    await finish(&write, sectors, from: buffer, options: options)
    if !write.failures.isEmpty {
      try await settle(write.failures, of: sectors, write.touched)
    }
  }

  private nonisolated func endWriteHere(_ touched: Range<Region>) {
    assumeIsolated { mirror in
      mirror.end(touched)
      mirror.endRequest()
    }
  }

  private nonisolated func finish(
    _ write: inout WriteUnderWay, _ sectors: Range<Sector>, from buffer: IOBuffer,
    options: WriteOptions
  ) async {
    let one = { @Sendable (leg: Int) async -> IOFailure? in
      await self.counted(.write, leg, sectors) { device, sectors throws(IOFailure) in
        try await device.write(sectors, from: buffer, options: options)
      }
    }
    let rest = write.rest
    guard let last = rest.last else { return }
    guard rest.count > 1 else {
      return write.note(await one(last), of: last, legCount: places.count)
    }
    // The last leg by this task itself: one task less to be made.
    write.failures = await withTaskGroup(of: (Int, IOFailure?).self) { [write] group in
      var write = write
      for index in rest.dropLast() {
        // Its request is on its way when this returns.
        group.addImmediateTask(executorPreference: loop) { (index, await one(index)) }
      }
      write.note(await one(last), of: last, legCount: places.count)
      for await (index, failure) in group {
        write.note(failure, of: index, legCount: places.count)
      }
      return write.failures
    }
  }
}

extension Mirror.WriteUnderWay {
  fileprivate mutating func note(_ failure: IOFailure?, of leg: Int, legCount: Int) {
    guard let failure else { return }
    if failures.isEmpty { failures = Array(repeating: nil, count: legCount) }
    failures[leg] = failure
  }
}
