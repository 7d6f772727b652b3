import BlockIO

// Making tables, and taking them down.

extension DeviceMapper {
  /// Makes a table: opens its devices, runs the constructors of its targets.
  func build(_ minor: Int, _ text: String) async throws(DeviceMapperError) -> MappedTable {
    let entry = entry(minor)
    let description = try TableDescription(text)
    var types: [any TargetType] = []
    for line in description.lines { types.append(try configuration.targets.type(line.target)) }
    let claims = DeviceClaims()
    var targets: [any Target] = []
    do throws(DeviceMapperError) {
      for (line, type) in zip(description.lines, types) {
        let context = context(entry, line, claims)
        let made = try await SuspendedPatience.limited { () async throws(DeviceMapperError) in
          try await type.make(context)
        }
        targets.append(made)
      }
      let table = MappedTable(
        description, targets, entry.building, claims.all, isReadOnly: entry.device.isReadOnly,
        on: loop)
      entry.building = []
      return table
    } catch {
      for target in targets { await target.destroy() }
      let devices = entry.building
      entry.building = []
      await release(devices)
      throw error
    }
  }

  private func context(
    _ entry: DeviceEntry, _ line: TableLine, _ claims: DeviceClaims
  ) -> TargetContext {
    let minor = entry.minor
    return TargetContext(
      line: line, deviceName: entry.name, isReadOnly: entry.device.isReadOnly, loop: loop,
      onEvent: { [weak self] event in self?.assumeIsolated { $0.note(minor, event) } },
      services: services, claims: claims,
      open: { [weak self] (word, isWritable) async throws(DeviceMapperError) in
        guard let self else { throw word.refused("the mapper is gone") }
        return try await self.take(word, isWritable: isWritable, for: minor)
      })
  }

  /// Opens what a word of a table names.
  private func take(
    _ word: TableWord, isWritable: Bool, for minor: Int
  ) async throws(DeviceMapperError) -> TableDevice {
    let user = entry(minor)
    guard let entry = lookUp(word.text) else {
      guard !word.text.hasPrefix("/dev/mapper/") || opener.identity(word.text) != nil else {
        throw word.refused("there is no mapped device '\(word.text.dropFirst(12))'")
      }
      let device = try await opened.take(word, isWritable: isWritable)
      user.building.append(device)
      return device
    }
    if entry === user { throw word.refused("'\(word.text)' would contain itself") }
    if reaches(entry, minor) {
      throw word.refused("'\(word.text)' uses '\(user.name)' itself: that would be a loop")
    }
    guard !entry.isRemoved else {
      throw word.refused("'\(word.text)' is being removed")
    }
    if isWritable, entry.device.isReadOnly {
      throw DeviceMapperError(
        .io, line: word.line, word: word.position, "'\(word.text)' is read-only")
    }
    let device = TableDevice(
      entry.device, word, isWritable: isWritable, key: .mapped(entry.minor),
      sectorCount: (entry.live ?? entry.inactive)?.sectorCount ?? .zero)
    if !user.building.contains(where: { $0.key == device.key }) { entry.openCount += 1 }
    user.building.append(device)
    return device
  }

  /// Whether a device stands on the one of that number.
  private func reaches(_ entry: DeviceEntry, _ minor: Int) -> Bool {
    var seen = Set<Int>()
    var next = entry.below
    while let below = next.popFirst() {
      if below == minor { return true }
      if seen.insert(below).inserted { next.formUnion(entries[below]?.below ?? []) }
    }
    return false
  }

  /// Takes a table down that no request can reach any more.
  func destroy(_ table: MappedTable?) async {
    guard let table else { return }
    for target in table.targets { await target.destroy() }
    await release(table.devices)
  }

  private func release(_ devices: [TableDevice]) async {
    var mapped = Set<Int>()
    for device in devices {
      if case .mapped(let minor) = device.key {
        mapped.insert(minor)
      } else {
        opened.release(device)
      }
    }
    for minor in mapped.sorted() { await close(minor) }
  }

  /// One user of a device less; with the last one a deferred removal is due.
  func close(_ minor: Int) async {
    guard let entry = entries[minor] else { return }
    entry.openCount -= 1
    guard entry.openCount == 0, entry.isRemovalDeferred, !entry.isRemoved else { return }
    // In a task of its own: who closes may be at work on another device.
    let name = entry.name
    Task(executorPreference: loop) {
      try? await self.changing(name) { (mapper, minor) async throws(DeviceMapperError) in
        let entry = mapper.entry(minor)
        if entry.openCount == 0, entry.isRemovalDeferred { await mapper.removeNow(entry) }
      }
    }
  }

  // MARK: Double use

  /// Refuses a table that would write what another device writes that runs.
  func checkClaims(_ table: MappedTable, of entry: DeviceEntry) throws(DeviceMapperError) {
    for other in entries.values.sorted(by: { $0.minor < $1.minor }) {
      guard other !== entry, !other.isSuspended, let live = other.live else { continue }
      for claim in table.claims {
        guard let theirs = live.claims.first(where: { $0.overlaps(claim) }) else { continue }
        let name = theirs.name == claim.name ? "" : " as '\(theirs.name)'"
        throw DeviceMapperError(
          .busy, device: entry.name,
          "'\(claim.name)'\(claim.sectors.map { " " + $0.label } ?? "") is used twice for writing:"
            + " '\(other.name)' writes it\(name)",
          advice: "suspend '\(other.name)' first if its table is about to change")
      }
    }
  }
}
