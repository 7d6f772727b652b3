import Foundation
import Testing

/// The daemon as a process, and the commands that talk to it.
struct DaemonCommandTests {
  @Test func verbsOfDmsetup() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(1 << 20))
    let disk = folder.file("disk")
    let daemon = try Daemon(folder)
    #expect(try daemon.run("dm", "ls").output == "No devices found\n")
    try daemon.run("dm", "create", "a", "-n", "-u", "U-1")
    #expect(try daemon.run("dm", "info", "a").output.contains("State:             SUSPENDED\n"))
    try daemon.run("dm", "resume", "a", status: 2)
    try folder.write("table", Data("0 1024 linear \(disk) 0\n1024 1024 zero\n".utf8))
    try daemon.run("dm", "load", "a", folder.file("table"))
    #expect(try daemon.run("dm", "info", "a").output.contains("INACTIVE\n"))
    #expect(
      try daemon.run("dm", "table", "--inactive", "a").output
        == "0 1024 linear \(disk) 0\n1024 1024 zero \n")
    try daemon.run("dm", "resume", "a")
    let info = try daemon.run("dm", "info", "a").output
    for line in ["Name:              a", "State:             ACTIVE", "Number of targets: 2"] {
      #expect(info.contains(line + "\n"))
    }
    #expect(info.hasSuffix("Number of targets: 2\nUUID: U-1\n\n"))
    #expect(try daemon.run("dm", "deps", "a").output == "1 dependencies\t: (\(disk))\n")
    try daemon.run("dm", "load", "a", "--table", "0 8 error")
    try daemon.run("dm", "clear", "a")
    try daemon.run("dm", "suspend", "a")
    try daemon.run("dm", "resume", "a")
    try daemon.run("dm", "rename", "a", "b")
    try daemon.run("dm", "wipe-table", "b")
    #expect(try daemon.table == ["b: 0 2048 error "])
    try daemon.run("dm", "create", "dust", "--table", "0 2048 dust \(disk) 0 512")
    try daemon.run("dm", "message", "dust", "0", "addbadblock", "5")
    #expect(
      try daemon.run("dm", "message", "dust", "0", "countbadblocks").output
        == "countbadblocks: 1 badblock(s) found\n")
    try daemon.run("dm", "create", "top", "--table", "0 8 linear b 0")
    #expect(try daemon.run("dm", "deps", "top").output == "1 dependencies\t: (253, 0)\n")
    // Several at once, and of one kind of target.
    #expect(
      try daemon.run("dm", "status", "b", "top").output == "b: 0 2048 error \ntop: 0 8 linear \n")
    #expect(try daemon.run("dm", "table", "--target", "error").output == "b: 0 2048 error \n")
    #expect(try daemon.run("dm", "ls", "--target", "dust").output == "dust\t(253:1)\n")
    #expect(try daemon.run("dm", "table", "--concise", "b").output == "b,U-1,0,rw,0 2048 error\n")
    try daemon.run("dm", "suspend", "top", "b")
    try daemon.run("dm", "resume", "b", "top")
    try daemon.run("dm", "remove", "dust", "top", "b", "--retry")
    #expect(try daemon.run("dm", "targets").output.contains("snapshot-merge   v"))
    #expect(try daemon.stop().status == 0)
  }

  /// What is printed in dmsetup's concise format makes the same devices elsewhere, all or none.
  @Test func conciseFormat() throws {
    let folder = try Folder()
    try folder.write("my, disk", pattern(1 << 20))
    let daemon = try Daemon(folder)
    let path = folder.file("my, disk").replacing(",", with: "\\,").replacing(" ", with: "\\\\ ")
    let text =
      "top,U-1,,ro,0 1024 linear low 0,1024 8 zero;low,,5,,0 2048 linear \(path) 0;empty,,,rw"
    try daemon.run("dm", "create", "--concise", text)
    let table = try daemon.table
    let concise = try daemon.run("dm", "table", "--concise").output
    #expect(concise.hasPrefix("empty,,"))
    #expect(concise.contains(",ro,0 1024 linear /dev/mapper/low 0,1024 8 zero"))
    #expect(try daemon.run("dm", "table", "--concise", "top").output.hasPrefix("top,U-1,"))
    for name in ["top", "low", "empty"] { try daemon.run("dm", "remove", name) }
    try folder.write("concise", Data(concise.utf8))
    try daemon.run("dm", "create", "--concise", concise)
    #expect(try daemon.table == table)
    #expect(try daemon.run("dm", "table", "--concise").output.contains("top,U-1,"))
    for bad in [
      "one,,,rw,0 8 zero;two,,,rw,0 8 nonsense", "one,,,rw,0 8 zero;top,,,rw,0 8 zero",
      "one,,,rw,0 8 zero;two,,,rx,0 8 zero",
    ] {
      try daemon.run("dm", "create", "--concise", bad, status: 2)
    }
    try daemon.run("dm", "create", "--concise", concise, "--readonly", status: 2)
    #expect(try daemon.table == table)
    #expect(try daemon.stop().status == 0)
  }

  @Test(arguments: [
    (["create", "b", "--table", "0 8"], "line 1 word 3"),
    (["create", "b", "--table", "0 8 nonsense"], "line 1 word 3"),
    (["create", "b", "--table", "8 8 zero"], "line 1 word 1"),
    (["create", "b", "--table", "0 8 linear relative/path 0"], "no whole path"),
    (["create", "b", "--table", "0 8 linear /there/is/nothing 0"], "line 1 word 4"),
    (["create", "b", "--table", "0 9999999 linear a 0"], "sectors"),
    (["create", "a", "--table", "0 8 zero"], "already"),
    (["create", "b", "."], "the table: '.' can't be read: Is a directory"),
    (["create", "b", "nothing"], "the table: 'nothing' can't be read: No such file or directory"),
    (["create", "b", "/dev/null"], "'b': the table is empty"),
    (
      ["create", "b", "--table", "0 2048 snapshot low a P 17"],
      "'b' line 1 word 7: a chunk size of 17"
    ),
    (["create", "b/c", "--table", "0 8 zero"], "can't be a name"),
    (["load", "a", "--table", "0 8 linear a 0"], "contain itself"),
    (["load", "low", "--table", "0 8 linear a 0"], "loop"), (["remove", "low"], "used by"),
    (["remove", "nothing"], "no device"), (["resume", "empty"], "no table"),
    (["message", "a", "0", "hello"], "no messages"), (["suspend", "nothing"], "no device"),
  ])
  func whatIsRefusedChangesNothing(arguments: [String], reason: String) throws {
    let folder = try Folder()
    let daemon = try Daemon(folder)
    try daemon.run("dm", "create", "low", "--table", "0 2048 zero")
    try daemon.run("dm", "create", "a", "--table", "0 2048 linear low 0")
    try daemon.run("dm", "create", "empty", "--notable")
    let before = try daemon.table
    let state = try folder.read("state/state.json")
    let outcome = try Command.run(
      ["dm"] + arguments + ["--socket", folder.file("run/s")], in: folder)
    #expect(outcome.status == 2)
    #expect(outcome.errors.contains(reason), "\(outcome.errors)")
    #expect(outcome.errors.split(separator: "\n").count == 1)
    #expect(try daemon.table == before)
    #expect(try folder.read("state/state.json") == state)
  }

  @Test func devicesComeBackAfterAKill() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(1 << 20))
    try folder.write("gone", pattern(1 << 20))
    let daemon = try Daemon(folder)
    try daemon.run("dm", "attach", "disk", "disk")
    try daemon.run("dm", "attach", "gone", "gone")
    try daemon.run("dm", "create", "over", "--table", "0 8 linear gone 0")
    try daemon.run("dm", "attach", "ro", "disk", "--readonly", status: 0)
    try daemon.run("snapshot", "take", "snap", "--of", "disk", "--cow", "cow")
    try daemon.run("dm", "suspend", "snap")
    let before = try daemon.table
    daemon.killHard()
    try FileManager.default.moveItem(atPath: folder.file("gone"), toPath: folder.file("away"))
    try daemon.again()
    let list = try daemon.run("dm", "ls").output
    #expect(list.contains("gone\t(-)\tnot there: "))
    #expect(list.contains("over\t(-)\tnot there: 'gone', which it stands on"))
    #expect(try daemon.table == before.filter { !$0.hasPrefix("gone") && !$0.hasPrefix("over") })
    #expect(try daemon.run("dm", "info", "snap").output.contains("SUSPENDED"))
    try daemon.run("dm", "resume", "gone", status: 1)
    try FileManager.default.moveItem(atPath: folder.file("away"), toPath: folder.file("gone"))
    try daemon.run("dm", "resume", "gone")
    #expect(try daemon.table == before)
  }

  @Test func anOriginStaysAwayWithoutOneOfItsSnapshots() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(1 << 20))
    let daemon = try Daemon(folder)
    try daemon.run("dm", "attach", "disk", "disk")
    try daemon.run("snapshot", "take", "snap", "--of", "disk", "--cow", "cow")
    daemon.killHard()
    try FileManager.default.removeItem(atPath: folder.file("cow"))
    try daemon.again()
    let list = try daemon.run("dm", "ls").output
    #expect(list.contains("disk\t(-)\tnot there: its snapshot 'snap' isn't there"))
    try daemon.run("snapshot", "drop", "snap")
    #expect(try daemon.table == ["disk: 0 2048 linear \(folder.file("disk")) 0"])
  }

  @Test func stepsAreRefusedAndRepeated() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(4 << 20))
    let daemon = try Daemon(folder)
    try daemon.run("dm", "attach", "disk", "disk")
    // A file with something in it isn't a place for old data.
    try folder.write("precious", Data(count: 4096) + pattern(4096))
    let precious = try folder.read("precious")
    try daemon.run("snapshot", "take", "s", "--of", "disk", "--cow", "precious", status: 2)
    try daemon.run("snapshot", "take", "s", "--of", "nothing", "--cow", "new", status: 2)
    try daemon.run("snapshot", "take", "s", "t", "--of", "disk", "--cow", "new", status: 2)
    #expect(try folder.read("precious") == precious)
    #expect(!folder.names.contains("new"))
    try daemon.run(
      "snapshot", "take", "s", "t", "--of", "disk", "--of", "disk", "--cow", "c1",
      "--cow", "c2")
    try daemon.run("snapshot", "take", "s", "--of", "disk", "--cow", "c3", status: 2)
    try daemon.run("dm", "remove", "disk-real", status: 2)
    try daemon.run("snapshot", "merge", "s", "-q")
    try daemon.run("snapshot", "drop", "t")
    try daemon.run("snapshot", "drop", "t", status: 2)
    let plain = "disk: 0 8192 linear \(folder.file("disk")) 0"
    #expect(try daemon.table == [plain])
    try daemon.run("mirror", "add", "disk", "leg", "-q")
    #expect(try folder.read("leg") == folder.read("disk"))
    try daemon.run("mirror", "remove", "disk", "nothing", status: 2)
    try daemon.run("mirror", "split", "disk", "leg", "--as", "copy")
    try daemon.run("mirror", "split", "disk", "leg", status: 2)
    try daemon.run("dm", "remove", "copy")
    try daemon.run("move", "--live", "disk", "moved", "-q")
    #expect(try folder.read("moved") == folder.read("disk"))
    #expect(try daemon.table == ["disk: 0 8192 linear \(folder.file("moved")) 0"])
    try daemon.run("move", "--abort", "disk", status: 2)
    #expect(try daemon.stop().status == 0)
  }

  @Test func configurationIsCheckedBeforeAnythingStarts() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(1 << 20))
    for (text, reason) in [
      ("{\"log\": 5}", "line 1, column 9"), ("{\n\"colour\": \"\"}", "line 2, column 1"),
      (
        "{\"devices\": {\"a\": \"0 8 nonsense\"}}",
        "config' line 1, column 14: 'a' line 1 word 3: there is no target 'nonsense'"
      ),
      (
        "{\"devices\": {\"a\": \"0 8\"}}",
        "config' line 1, column 14: 'a' line 1 word 3: the target"
      ),
      (
        "{\"devices\": {\"a\": \"0 8 linear /there/is/nothing 0\"}}", "column 14: 'a' line 1 word 4"
      ),
      ("{\"devices\": {\"a\": \"0 8 linear here/disk 0\"}}", "is no whole path"),
      (
        "{\"devices\": {\"a\": \"0 8 linear b 0\",\n\"b\": \"0 8 linear a 0\"}}",
        "line 1, column 14: 'a' would stand on itself"
      ),
      ("{\"exports\": {\"a\": \"b\"}}", "no device 'b'"),
      ("{\"log\": \"loud\"}", "line 1, column 9: log"),
      (
        "{\"nbd\": {\"tls\": {\"certificate\": \"/there/is/nothing\", \"key\": \"k\"}}}",
        "tls: certificate '/there/is/nothing' can't be read: No such file or directory"
      ),
      // Nothing of what is new is saved either when there is no place to serve it at.
      (
        "{\"devices\": {\"a\": \"0 8 zero\"}, \"nbd\": {\"unix\": [\"\(folder.file("disk"))\"]}}",
        "unix: '\(folder.file("disk"))' is there and is no socket"
      ),
    ] {
      try folder.write("config", Data(text.utf8))
      let outcome = try Command.run(
        "serve", "--config", "config", "--state", "state", "--socket", "run/s", in: folder)
      #expect(outcome.status == 2)
      #expect(outcome.errors.contains(reason), "\(outcome.errors)")
      #expect(outcome.errors.split(separator: "\n").count == 1, "\(outcome.errors)")
      #expect(
        !folder.names.contains("state")
          || !FileManager.default.fileExists(
            atPath: folder.file("state/state.json"))
      )
    }
    let table = "0 2048 linear \(folder.file("disk")) 0"
    try folder.write("config", Data("{\"devices\": {\"disk\": \"\(table)\"}}".utf8))
    let daemon = try Daemon(folder, "--config", folder.file("config"))
    #expect(try daemon.table == ["disk: \(table)"])
    let second = try Command.run(
      "serve", "--state", "state", "--socket", "run/t", in: folder)
    #expect(second.status == 2 && second.errors.contains("another daemon runs"))
    let third = try Command.run(
      "serve", "--state", "other", "--socket", "run/s", in: folder)
    #expect(third.status == 2 && third.errors.contains("another daemon listens"))
    // Nor does it take the place away where another one serves.
    let fourth = try Command.run(
      "serve", "--state", "other", "--socket", "run/u", "--unix", folder.file("nbd"), in: folder)
    #expect(fourth.status == 2 && fourth.errors.contains("another program listens"))
    #expect(FileManager.default.fileExists(atPath: folder.file("nbd")))
    #expect(try daemon.stop().status == 0)
  }

  /// A file with everything in it: a device, its export, and TLS, which clients must use.
  @Test(.enabled(if: program("openssl") != nil, "openssl isn't installed"))
  func configurationWithExportsAndTLS() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(1 << 20))
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(program("openssl")))
    process.arguments =
      ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
      + ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder.file("key.pem")]
      + ["-out", folder.file("ca-cert.pem")]
    process.standardError = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    try folder.write(
      "config",
      Data(
        """
        {"nbd": {"tls": {"mode": "require", "certificate": "\(folder.file("ca-cert.pem"))",
         "key": "\(folder.file("key.pem"))"}},
         "devices": {"disk": "0 2048 linear \(folder.file("disk")) 0"},
         "exports": {"shown": "disk"}}
        """.utf8))
    let daemon = try Daemon(folder, "--config", folder.file("config"))
    let export = ":///shown?socket=\(folder.file("nbd"))"
    let tls = "&tls-hostname=localhost&tls-certificates=\(folder.path)"
    let outcome = try Command.run(
      "compare", "disk", "nbds+unix" + export + tls, in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    let plain = try Command.run("compare", "disk", "nbd+unix" + export, in: folder)
    #expect(plain.status == 2 && plain.errors.contains("TLS"), "\(plain.errors)")
    // The state has it, too, by now: it comes back once, and no second time from the file.
    daemon.killHard()
    try daemon.again("--config", folder.file("config"))
    #expect(try daemon.run("exports").output.split(separator: "\n").count == 1)
    #expect(try daemon.stop().status == 0)
  }

  /// Ten rounds of `Interop/daemon-kill`, which says more of itself.
  @Test func nothingIsLostOverKillsUnderLoad() throws {
    try interop("daemon-kill", "10", "5", says: "nothing lost")
  }

  /// A client of the device stays connected while snapshots are taken, dropped and merged, …
  @Test func aClientGoesOnThroughAllChanges() throws {
    try interop("live-changes", "2", "5", says: "requests of one connection")
  }

  /// Runs a script of `Interop/` that works with libnbd.
  private func interop(_ script: String, _ arguments: String..., says text: String) throws {
    let folder = try Folder()
    let process = Process()
    process.executableURL =
      URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../Interop/\(script)").standardizedFileURL
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment
      .merging(["KCOPYD": Command.path, "TMPDIR": "/tmp"]) { $1 }
    try folder.write("out", Data())
    process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: folder.file("out")))
    process.standardOutput = process.standardError
    do { try process.run() } catch { return print("skipped: /usr/bin/python3 isn't installed") }
    process.waitUntilExit()
    let output = String(decoding: try folder.read("out"), as: UTF8.self)
    if output.contains("isn't installed") {
      return print("skipped: python3-libnbd isn't installed")
    }
    #expect(process.terminationStatus == 0, "\(output)")
    #expect(output.contains(text))
  }

  @Test func exportsOfOthersAreEndsOfLiveCopies() throws {
    let folder = try Folder()
    try folder.write("disk", pattern(1 << 20))
    for name in ["a", "b"] { try folder.write(name, Data(count: 1 << 20)) }
    guard let one = try NetworkCommandTests.Server(["file", folder.file("a")], "s1", in: folder),
      let other = try NetworkCommandTests.Server(["file", folder.file("b")], "s2", in: folder)
    else { return }
    let leg = "nbd+unix:///?socket=\(folder.file("s1"))"
    let goal = "nbd+unix:///?socket=\(folder.file("s2"))"
    let daemon = try Daemon(folder)
    try daemon.run("dm", "attach", "disk", "disk", "--export")
    try daemon.run("mirror", "add", "-q", "disk", leg)
    try daemon.run("mirror", "split", "disk", leg, "--as", "copy")
    #expect(try folder.read("a") == folder.read("disk"))
    try daemon.run("move", "--live", "-q", "disk", goal)
    #expect(try daemon.table.contains("disk: 0 2048 linear \(goal) 0"))
    #expect(try folder.read("b") == folder.read("disk"))
    try daemon.run("snapshot", "take", "snap", "--of", "disk", "--cow", "cow")
    // A device over its own export would wait for itself.
    let own = "nbd+unix:///disk?socket=\(folder.file("nbd"))"
    let refused = try daemon.run("move", "--live", "disk", own, status: 2)
    #expect(refused.errors.contains("serves it itself"))
    try daemon.run("snapshot", "drop", "snap")
    try daemon.run("dm", "remove", "copy")
    try daemon.run("dm", "attach", "copy", leg)
    #expect(try daemon.table.contains("copy: 0 2048 linear \(leg) 0"))
    #expect(try daemon.stop().status == 0)
    withExtendedLifetime((one, other)) {}
  }

  @Test func waitingIsGivenUpByTheClientAlone() throws {
    let folder = try Folder()
    let daemon = try Daemon(folder)
    try daemon.run("dm", "create", "a", "--table", "0 8 zero")
    let waiting = try (0..<3).map { _ in
      try Command.start(["dm", "wait", "a", "0", "--socket", folder.file("run/s")], in: folder)
    }
    usleep(100_000)
    kill(waiting[0].process.processIdentifier, SIGKILL)
    // An event; whoever asks later gets its answer at once.
    try daemon.run("dm", "rename", "--setuuid", "a", "U")
    #expect(try waiting[1].finish().status == 0)
    #expect(try waiting[2].finish().status == 0)
    #expect(try daemon.stop().status == 0)
  }
}
