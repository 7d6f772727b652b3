import Testing

@testable import Daemon

/// What the one-step verbs make of a state.
struct StackChangesTests {
  private func linear() -> DaemonState {
    var state = DaemonState()
    state.devices = [SavedDevice(name: "disk", table: "0 8192 linear /a 16")]
    return state
  }

  private func order(_ name: String, of origin: String = "disk") -> SnapshotOrder {
    SnapshotOrder(name: name, origin: origin, cow: "/cow of \(name)", size: nil, chunkSectors: 32)
  }

  private func tables(_ state: DaemonState) -> [String: String] {
    Dictionary(uniqueKeysWithValues: state.devices.map { ($0.name, $0.table ?? "") })
  }

  @Test func takingASnapshotPutsTheDeviceOverItsOldTable() throws {
    var state = linear()
    try state.takeSnapshots([order("s1")])
    #expect(
      tables(state) == [
        "disk-real": "0 8192 linear /a 16", "disk": "0 8192 snapshot-origin disk-real",
        "s1": "0 8192 snapshot disk-real /cow\\ of\\ s1 P 32",
      ])
    try state.takeSnapshots([order("s2")])
    #expect(state.devices.count == 4)
    // An origin comes behind all its snapshots: it must not be written without them.
    #expect(state.bottomUp.map(\.name) == ["disk-real", "s1", "s2", "disk"])
  }

  @Test func droppingTheLastSnapshotGivesTheOldTableBack() throws {
    let before = linear()
    var state = before
    try state.takeSnapshots([order("s1"), order("s2")])
    try state.dropSnapshot("s1")
    #expect(state[device: "disk"]?.table == "0 8192 snapshot-origin disk-real")
    try state.dropSnapshot("s2")
    #expect(state == before)
  }

  @Test func mergingEndsWhereItBegan() throws {
    let before = linear()
    var state = before
    try state.takeSnapshots([order("s1")])
    let taken = state
    try state.beginMerge("s1")
    #expect(
      state[device: "disk"]?.table == "0 8192 snapshot-merge disk-real /cow\\ of\\ s1 P 32")
    #expect(state[device: "s1"] == nil)
    #expect(state.operation(on: "disk")?.snapshot == taken[device: "s1"])
    #expect(throws: ControlFailure.self) { try state.takeSnapshots([self.order("s2")]) }
    try state.endMerge(of: "disk")
    #expect(state == before)
  }

  @Test func aMergeLeavesTheOtherSnapshots() throws {
    var state = linear()
    try state.takeSnapshots([order("s1"), order("s2")])
    try state.beginMerge("s1")
    try state.endMerge(of: "disk")
    #expect(state[device: "disk"]?.table == "0 8192 snapshot-origin disk-real")
    #expect(state[device: "s2"] != nil)
  }

  @Test func aMoveIsAMirrorUntilItsEnd() throws {
    var state = linear()
    try state.takeSnapshots([order("s1")])
    let taken = state
    try state.beginMove("disk", to: "/b")
    #expect(
      state[device: "disk-real"]?.table
        == "0 8192 mirror core 1 4096 2 /a 16 /b 0 1 handle_errors")
    #expect(throws: ControlFailure.self) { try state.takeSnapshots([self.order("s2")]) }
    var aborted = state
    try aborted.endMove(of: "disk", isAborted: true)
    #expect(aborted == taken)
    try state.endMove(of: "disk", isAborted: false)
    #expect(state[device: "disk-real"]?.table == "0 8192 linear /b 0")
    #expect(state.operations.isEmpty)
  }

  @Test func aSnapshotDroppedDuringAMoveLeavesTheDeviceThatMoves() throws {
    var state = linear()
    try state.takeSnapshots([order("s1")])
    try state.beginMove("disk", to: "/b")
    try state.dropSnapshot("s1")
    // Putting the device on that table now would begin the copying once more.
    #expect(state[device: "disk"]?.table == "0 8192 snapshot-origin disk-real")
    try state.endMove(of: "disk", isAborted: false)
    #expect(state[device: "disk-real"]?.table == "0 8192 linear /b 0")
  }

  @Test func legsComeAndGo() throws {
    let before = linear()
    var state = before
    try state.addLeg("/b", to: "disk", log: "/log", sidecar: "/side", region: 1024)
    let two = "0 8192 mirror disk 2 /log 1024 2 /a 16 /b 0 0 2 sidecar /side"
    #expect(state[device: "disk"]?.table == two)
    #expect(throws: ControlFailure.self) {
      try state.addLeg("/c", to: "disk", log: "", sidecar: "", region: nil)
    }
    try state.endSync(of: "disk")
    #expect(state[device: "disk"]?.table == two)
    try state.addLeg("/c", to: "disk", log: "", sidecar: "", region: nil)
    // The log can't say which leg is new, so everything is copied, also after a restart.
    #expect(
      state[device: "disk"]?.table
        == "0 8192 mirror disk 3 /log 1024 sync 3 /a 16 /b 0 /c 0 0 2 sidecar /side")
    try state.endSync(of: "disk")
    #expect(
      state[device: "disk"]?.table
        == "0 8192 mirror disk 2 /log 1024 3 /a 16 /b 0 /c 0 0 2 sidecar /side")
    _ = try state.removeLeg("/c", from: "disk")
    #expect(state[device: "disk"]?.table == two)
    let removed = try state.removeLeg("/b", from: "disk")
    #expect(removed.unused == ["/log", "/side"])
    #expect(state == before)
  }

  @Test func theFirstLegMayGoToo() throws {
    var state = linear()
    try state.addLeg("/b", to: "disk", log: "/log", sidecar: "/side", region: nil)
    try state.endSync(of: "disk")
    _ = try state.removeLeg("/a", from: "disk")
    #expect(state[device: "disk"]?.table == "0 8192 linear /b 0")
  }

  @Test(arguments: [
    ("disk", "there is a device 'disk' already"), ("disk-real", "'disk-real', which 'disk'"),
  ])
  func namesInUseAreRefused(name: String, reason: String) throws {
    var state = linear()
    if name != "disk" { state.devices.append(SavedDevice(name: name, table: "0 8 zero")) }
    let before = state
    let wanted = name == "disk" ? name : "s"
    let failure = #expect(throws: ControlFailure.self) {
      try state.takeSnapshots([self.order(wanted)])
    }
    #expect(failure?.message.hasPrefix(reason) == true)
    _ = before
  }

  @Test func whatDoesntFitIsRefused() throws {
    var state = linear()
    try state.takeSnapshots([order("s1")])
    let before = state
    for change: (inout DaemonState) throws -> Void in [
      { try $0.takeSnapshots([]) }, { try $0.takeSnapshots([self.order("s2", of: "nothing")]) },
      { try $0.takeSnapshots([self.order("s2", of: "s1")]) }, { try $0.dropSnapshot("disk") },
      { try $0.beginMerge("disk") }, { try $0.beginMove("s1", to: "/b") },
      { try $0.beginMove("disk", to: "/a") }, { try $0.endMove(of: "disk", isAborted: true) },
      { _ = try $0.removeLeg("/a", from: "disk") },
      { try $0.addLeg("/a", to: "disk", log: "", sidecar: "", region: nil) },
    ] {
      var state = before
      #expect(throws: ControlFailure.self) { try change(&state) }
    }
  }

  @Test func aNameMayBeAWordOfTables() throws {
    var state = linear()
    try state.addLeg("/b", to: "disk", log: "/log", sidecar: "/side", region: nil)
    try state.endSync(of: "disk")
    // Its mirror has a log of the kind 'disk': that isn't the device 'disk'.
    try state.takeSnapshots([order("P")])
    #expect(state.bottomUp.map(\.name) == ["disk-real", "P", "disk"])
    #expect(state.above("P").isEmpty)
  }
}
