import BlockIO

// What dmsetup does with one device.

extension DeviceMapper {
  // MARK: Creating and removing

  /// Makes a device; with a table it is loaded and resumed.
  ///
  /// - Parameters:
  ///   - name: up to 127 bytes, without `/` and control characters.
  ///   - table: the table; nil: none yet (`-n`).
  ///   - uuid: up to 128 bytes; unique unless empty.
  ///   - minor: its number; nil: the lowest one free.
  ///   - isReadOnly: writes are refused, devices are opened for reading.
  /// - Throws: why not. There is no such device then.
  public func create(
    _ name: String, table: String? = nil, uuid: String = "", minor: Int? = nil,
    isReadOnly: Bool = false
  ) async throws(DeviceMapperError) {
    try checkName(name)
    try checkUUID(uuid, of: name)
    let number = minor ?? (0...).first { entries[$0] == nil } ?? 0
    guard entries[number] == nil, 0..<1 << 20 ~= number else {
      throw DeviceMapperError(.exists, device: name, "minor number \(number) can't be had")
    }
    let device = MappedDevice(
      name, minor: number, isReadOnly: isReadOnly, faults: configuration.faults, on: loop)
    entries[number] = DeviceEntry(device, name: name, uuid: uuid)
    minors[name] = number
    emit(.created, entry(number))
    guard let table else { return }
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      let entry = mapper.entry(minor)
      do throws(DeviceMapperError) {
        entry.inactive = try await mapper.build(minor, table)
        try await mapper.resumeNow(entry, isNoFlush: false)
      } catch {
        await mapper.removeNow(entry)
        throw error
      }
    }
  }

  private func checkName(_ name: String) throws(DeviceMapperError) {
    let isFine =
      (1...127).contains(name.utf8.count) && name != "." && name != ".."
      && name.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f && $0 != UInt8(ascii: "/") }
    guard isFine else {
      throw DeviceMapperError(
        .name, "'\(name)' can't be a name",
        advice: "1 to 127 bytes, without / and control characters")
    }
    guard minors[name] == nil else {
      throw DeviceMapperError(.exists, device: name, "there is a device of that name already")
    }
  }

  private func checkUUID(_ uuid: String, of name: String) throws(DeviceMapperError) {
    guard uuid.utf8.count <= 128, uuid.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7f }) else {
      throw DeviceMapperError(
        .name, device: name, "'\(uuid)' can't be a uuid",
        advice: "up to 128 bytes without blanks and control characters")
    }
    if !uuid.isEmpty, let other = entries.values.first(where: { $0.uuid == uuid }) {
      throw DeviceMapperError(
        .exists, device: name, "'\(other.name)' has the uuid '\(uuid)' already")
    }
  }

  /// Removes a device.
  ///
  /// - Parameters:
  ///   - isForced: first gives it a table that fails everything, so that nothing it stands on is
  ///     used any more even if it is open.
  ///   - isDeferred: an open device goes when it is closed.
  ///   - retries: how often an open device is looked at again, every 200 ms.
  /// - Returns: whether it has gone; false: it will when it is closed.
  /// - Throws: when it is open, or used by the table of another one.
  @discardableResult
  public func remove(
    _ name: String, isForced: Bool = false, isDeferred: Bool = false, retries: Int = 0
  ) async throws(DeviceMapperError) -> Bool {
    var left = retries
    while true {
      let isFirst = left == retries
      do throws(DeviceMapperError) {
        return try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
          try await mapper.remove(
            mapper.entry(minor), isForced: isForced && isFirst, isDeferred: isDeferred)
        }
      } catch {
        guard error.kind == .busy, left > 0, !Task.isCancelled else { throw error }
        left -= 1
        await withTaskExecutorPreference(loop) { await loop.sleep(for: .milliseconds(200)) }
      }
    }
  }

  private func remove(
    _ entry: DeviceEntry, isForced: Bool, isDeferred: Bool
  ) async throws(DeviceMapperError) -> Bool {
    if isForced, let live = entry.live {
      await destroy(entry.inactive)
      entry.inactive = try await build(entry.minor, "0 \(live.sectorCount.rawValue) error")
      try await resumeNow(entry, isNoFlush: true)
    }
    guard entry.openCount == 0 else {
      if isDeferred {
        entry.isRemovalDeferred = true
        return false
      }
      let users = entries.values.filter { $0.below.contains(entry.minor) }.map(\.name).sorted()
      throw DeviceMapperError(
        .busy, device: entry.name,
        users.isEmpty
          ? "it is open" : "it is used by \(users.map { "'\($0)'" }.joined(separator: ", "))",
        advice: users.isEmpty ? "close it first, or remove it deferred" : "remove these first")
    }
    await removeNow(entry)
    return true
  }

  /// Takes a device away that nobody uses, and that is locked.
  func removeNow(_ entry: DeviceEntry) async {
    entry.isRemoved = true
    await suspendNow(entry, isNoFlush: false)
    entry.device.setTable(nil)
    // Whoever waits is told that there is nothing any more.
    entry.device.gate.open()
    let (live, inactive) = (entry.live, entry.inactive)
    (entry.live, entry.inactive) = (nil, nil)
    await destroy(inactive)
    await destroy(live)
    entries[entry.minor] = nil
    minors[entry.name] = nil
    count(entry)
    emit(.removed, entry)
  }

  /// Gives a device another name, or a uuid if it has none.
  public func rename(_ name: String, to new: String) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      try mapper.checkName(new)
      let entry = mapper.entry(minor)
      mapper.minors[entry.name] = nil
      mapper.minors[new] = minor
      entry.name = new
      entry.device.rename(to: new)
      mapper.count(entry)
      mapper.emit(.renamed(from: name), entry)
    }
  }

  /// Gives a device that has none a uuid.
  public func setUUID(_ name: String, _ uuid: String) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      let entry = mapper.entry(minor)
      guard entry.uuid.isEmpty else {
        throw DeviceMapperError(.exists, "it has the uuid '\(entry.uuid)', which is for good")
      }
      guard !uuid.isEmpty else { throw DeviceMapperError(.name, "the uuid is empty") }
      try mapper.checkUUID(uuid, of: entry.name)
      entry.uuid = uuid
      mapper.count(entry)
    }
  }

  // MARK: Tables

  /// Makes a table and puts it into the inactive slot; the live one goes on undisturbed.
  ///
  /// - Throws: what is wrong with it, with line and word; the inactive table before stays.
  public func load(_ name: String, _ table: String) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      let entry = mapper.entry(minor)
      // As in the kernel the one before has to go only when the new one is there – unless that
      // takes over a store, for which only one may wait.
      let description = try TableDescription(table)
      let handsOver = description.lines.contains { $0.target.text.hasPrefix("snapshot") }
      if handsOver {
        await mapper.destroy(entry.inactive)
        entry.inactive = nil
      }
      let built = try await mapper.build(minor, table)
      let old = entry.inactive
      entry.inactive = built
      await mapper.destroy(old)
      mapper.emit(.tableChanged, entry)
    }
  }

  /// Drops the inactive table.
  public func clear(_ name: String) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      let entry = mapper.entry(minor)
      let old = entry.inactive
      entry.inactive = nil
      await mapper.destroy(old)
      mapper.emit(.tableChanged, entry)
    }
  }

  /// Has everything fail that is done with a device, and gives up what it stood on.
  public func wipeTable(_ name: String) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      let entry = mapper.entry(minor)
      guard let live = entry.live else {
        throw DeviceMapperError(.state, "it has no live table")
      }
      await mapper.destroy(entry.inactive)
      entry.inactive = try await mapper.build(minor, "0 \(live.sectorCount.rawValue) error")
      try await mapper.resumeNow(entry, isNoFlush: true)
    }
  }

  // MARK: Suspending and resuming

  /// Keeps new requests out and waits until none is under way. Suspending once more changes nothing.
  ///
  /// - Parameters:
  ///   - isNoFlush: requests that a target pushes back – a mirror those that missed a leg – are done
  ///     again after the next resume, instead of failing.
  ///   - freezesFileSystem: of no effect: nothing here knows of file systems.
  public func suspend(
    _ name: String, isNoFlush: Bool = false, freezesFileSystem: Bool = true
  ) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      await mapper.suspendNow(mapper.entry(minor), isNoFlush: isNoFlush)
    }
  }

  /// Makes the inactive table the live one, if there is one, and lets requests in again; none is
  /// lost. Suspends first if necessary.
  ///
  /// - Throws: when there is no table; when the new one would write what another device that runs
  ///   writes; when a target refuses. Then the old table is live as before, and the new one gone if a
  ///   target refused it.
  public func resume(_ name: String, isNoFlush: Bool = false) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      try await mapper.resumeNow(mapper.entry(minor), isNoFlush: isNoFlush)
    }
  }

  /// Lets requests in again with the live table, as if the device hadn't been suspended: an inactive
  /// one stays inactive.
  public func goOn(_ name: String) async throws(DeviceMapperError) {
    try await changing(name) { (mapper, minor) async throws(DeviceMapperError) in
      try await mapper.goOnNow(mapper.entry(minor))
    }
  }

  /// Suspends devices at one instant, those that stand on others first: when this returns, none of
  /// them has done anything that another one hasn't.
  public func suspend(_ names: [String], isNoFlush: Bool = false) async throws(DeviceMapperError) {
    try await changing(names) { (mapper, minors) async throws(DeviceMapperError) in
      for entry in mapper.bottomUp(minors).reversed() {
        await mapper.suspendNow(entry, isNoFlush: isNoFlush)
      }
    }
  }

  /// Resumes devices, those first on which others stand.
  ///
  /// - Throws: the first refusal, when all others have been resumed.
  public func resume(_ names: [String], isNoFlush: Bool = false) async throws(DeviceMapperError) {
    try await changing(names) { (mapper, minors) async throws(DeviceMapperError) in
      var first: DeviceMapperError?
      for entry in mapper.bottomUp(minors) {
        do throws(DeviceMapperError) {
          try await mapper.resumeNow(entry, isNoFlush: isNoFlush)
        } catch { first = first ?? error.of(entry.name) }
      }
      if let first { throw first }
    }
  }

  /// Devices in an order in which each one comes behind all that it stands on.
  func bottomUp(_ minors: some Sequence<Int>) -> [DeviceEntry] {
    let wanted = Set(minors)
    var seen = Set<Int>()
    var order: [DeviceEntry] = []
    // Depth first, with a stack of its own: stacks of devices may be high.
    for minor in wanted.sorted() {
      var stack: [(minor: Int, isDone: Bool)] = [(minor, false)]
      while let (minor, isDone) = stack.popLast() {
        guard let entry = entries[minor] else { continue }
        if isDone {
          if wanted.contains(minor) { order.append(entry) }
        } else if seen.insert(minor).inserted {
          stack.append((minor, true))
          stack += entry.below.sorted().map { ($0, false) }
        }
      }
    }
    return order
  }
}
