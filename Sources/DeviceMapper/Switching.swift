import BlockIO

// From one table to the next. The device is locked by the verb that calls these.

extension DeviceMapper {
  /// Keeps requests out, lets those go that targets hold back, waits for the end of all.
  func suspendNow(_ entry: DeviceEntry, isNoFlush: Bool) async {
    guard let table = entry.live, !entry.isSuspended else { return }
    let gate = entry.device.gate
    gate.close()
    for target in table.targets { await target.presuspend(isNoFlush: isNoFlush) }
    await gate.drain()
    for target in table.targets { await target.postsuspend() }
    entry.isSuspended = true
    emit(.suspended, entry)
  }

  /// Makes the inactive table live, if there is one, and starts.
  func resumeNow(_ entry: DeviceEntry, isNoFlush: Bool) async throws(DeviceMapperError) {
    guard let table = entry.inactive else { return try await goOnNow(entry) }
    try checkClaims(table, of: entry)
    let wasRunning = entry.live != nil && !entry.isSuspended
    await suspendNow(entry, isNoFlush: isNoFlush)
    entry.device.gate.close()
    let old = entry.live
    entry.inactive = nil
    do throws(DeviceMapperError) {
      // Others may have been resumed while this one was suspended.
      try checkClaims(table, of: entry)
      entry.live = table
      entry.device.setTable(table)
      try await start(entry, table)
    } catch {
      await goBack(entry, from: table, to: old, wasRunning: wasRunning)
      throw error
    }
    emit(.tableChanged, entry)
    await destroy(old)
  }

  /// Starts with the live table.
  func goOnNow(_ entry: DeviceEntry) async throws(DeviceMapperError) {
    guard let live = entry.live else {
      throw DeviceMapperError(.state, "it has no table", advice: "load one first")
    }
    guard entry.isSuspended else { return }
    try checkClaims(live, of: entry)
    try await start(entry, live)
  }

  /// All hooks that may refuse, all others, then the requests that wait.
  private func start(_ entry: DeviceEntry, _ table: MappedTable) async throws(DeviceMapperError) {
    for (target, line) in zip(table.targets, table.description.lines) {
      do throws(DeviceMapperError) {
        try await target.preresume()
      } catch {
        throw DeviceMapperError(
          error.kind, device: entry.name, line: line.target.line, error.reason,
          advice: error.advice)
      }
    }
    for target in table.targets { await target.resume() }
    entry.isSuspended = false
    entry.device.gate.open()
    emit(.resumed, entry)
  }

  /// A target has refused: the old table is the live one again.
  private func goBack(
    _ entry: DeviceEntry, from table: MappedTable, to old: MappedTable?, wasRunning: Bool
  ) async {
    // Those before the one that refused have started.
    for target in table.targets { await target.presuspend(isNoFlush: true) }
    for target in table.targets { await target.postsuspend() }
    entry.live = old
    entry.device.setTable(old)
    await destroy(table)
    guard let old else { return entry.device.gate.open() }
    if wasRunning { try? await start(entry, old) }
  }
}
