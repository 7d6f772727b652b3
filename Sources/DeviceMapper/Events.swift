import BlockIO

/// Something that happened to a device.
public struct DeviceEvent: Sendable, Hashable {
  /// What.
  public enum Kind: Sendable, Hashable {
    /// It was made.
    case created
    /// It has gone.
    case removed
    /// It had that name before.
    case renamed(from: String)
    /// A table was loaded, dropped, or made live.
    case tableChanged
    /// Requests wait from now on.
    case suspended
    /// Requests are done again.
    case resumed
    /// Something happened to a target.
    case target(TargetEvent)
  }

  /// The device.
  public let name: String
  /// Its minor number.
  public let minor: Int
  /// What.
  public let kind: Kind
  /// The device's event number now.
  public let number: UInt32
}

extension DeviceMapper {
  /// All that happens from now on. Who reads too slowly misses the oldest of more than 1024.
  public func events() -> AsyncStream<DeviceEvent> {
    listenerCount += 1
    let number = listenerCount
    let (stream, continuation) = AsyncStream.makeStream(
      of: DeviceEvent.self, bufferingPolicy: .bufferingNewest(1024))
    listeners[number] = continuation
    continuation.onTermination = { [weak self] _ in
      guard let self else { return }
      Task(executorPreference: self.loop) { await self.forgetListener(number) }
    }
    return stream
  }

  private func forgetListener(_ number: UInt64) { listeners[number] = nil }

  func emit(_ kind: DeviceEvent.Kind, _ entry: DeviceEntry) {
    guard !listeners.isEmpty else { return }
    let event = DeviceEvent(
      name: entry.name, minor: entry.minor, kind: kind, number: entry.eventNumber)
    for listener in listeners.values { listener.yield(event) }
  }

  /// One event more, for those who wait for one.
  func count(_ entry: DeviceEntry) {
    entry.eventNumber &+= 1
    let waiters = entry.waiters
    entry.waiters = [:]
    for (_, waiter) in waiters.sorted(by: { $0.key < $1.key }) { waiter.resume() }
  }

  /// A target has something to tell.
  func note(_ minor: Int, _ event: TargetEvent) {
    guard let entry = entries[minor] else { return }
    if event.isCounted { count(entry) }
    emit(.target(event), entry)
  }

  /// Waits until a device's event number is another one than `number`, or it has been removed.
  ///
  /// - Parameter number: nil: the one that it has now.
  /// - Returns: the event number.
  /// - Throws: when there is no such device, or the task is cancelled.
  public func wait(
    _ name: String, number: UInt32? = nil
  ) async throws(DeviceMapperError) -> UInt32 {
    let entry = try find(name)
    let known = number ?? entry.eventNumber
    listenerCount += 1
    let waiter = listenerCount
    let minor = entry.minor
    while entry.eventNumber == known, !entry.isRemoved {
      if Task.isCancelled { throw DeviceMapperError(.state, device: name, "waiting was cancelled") }
      await withTaskCancellationHandler {
        await withCheckedContinuation { continuation in
          if entry.eventNumber != known || entry.isRemoved || Task.isCancelled {
            continuation.resume()
          } else {
            entry.waiters[waiter] = continuation
          }
        }
      } onCancel: {
        Task(executorPreference: loop) { await self.stopWaiting(minor, waiter) }
      }
    }
    return entry.eventNumber
  }

  private func stopWaiting(_ minor: Int, _ waiter: UInt64) {
    entries[minor]?.waiters.removeValue(forKey: waiter)?.resume()
  }
}
