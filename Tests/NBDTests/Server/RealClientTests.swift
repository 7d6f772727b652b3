import BlockIO
import Foundation
import Testing

@testable import NBD

/// The server with the clients that people use. Those that aren't installed are skipped.
@Suite struct RealClientTests {
  private static func isInstalled(_ tool: String) -> Bool { path(tool) != nil }

  private static func path(_ tool: String) -> String? {
    ["/usr/bin", "/usr/local/bin", "/bin"].map { "\($0)/\(tool)" }
      .first { FileManager.default.isExecutableFile(atPath: $0) }
  }

  /// What a program said, and how it ended.
  private func run(_ tool: String, _ arguments: [String]) async throws -> (Int32, String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: try #require(Self.path(tool)))
    process.arguments = arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    return try await withCheckedThrowingContinuation { continuation in
      process.terminationHandler = { process in
        let said = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        continuation.resume(returning: (process.terminationStatus, said))
      }
      do { try process.run() } catch { continuation.resume(throwing: error) }
    }
  }

  private func random(_ sectors: Sector) -> MemoryDevice {
    let device = MemoryDevice(sectorCount: sectors)
    var generator = SystemRandomNumberGenerator()
    device.fill((0..<Int(sectors.bytes)).map { _ in UInt8.random(in: 0...255, using: &generator) })
    return device
  }

  @Test(.enabled(if: isInstalled("nbdinfo"), "nbdinfo is not installed (package libnbd-bin)"))
  func nbdinfo() async throws {
    try await TestServer.serving(["disk": random(2048), "other": random(8)]) { test in
      let uri = "nbd+unix:///disk?socket=\(test.socket)"
      let (status, text) = try await run("nbdinfo", [uri])
      #expect(status == 0)
      for line in [
        "export-size: 1048576", "protocol: newstyle-fixed without TLS, using structured packets",
        "is_read_only: false", "can_multi_conn: true", "can_fua: true", "base:allocation",
        "can_fast_zero: true", "block_size_maximum: 33554432",
      ] {
        #expect(text.contains(line), "\(line)\n\(text)")
      }
      let (_, list) = try await run("nbdinfo", ["--list", "nbd+unix:///?socket=\(test.socket)"])
      #expect(list.contains("export=\"disk\"") && list.contains("export=\"other\""), "\(list)")
      let (missing, why) = try await run("nbdinfo", ["nbd+unix:///none?socket=\(test.socket)"])
      #expect(missing != 0 && why.contains("none"), "\(why)")
    }
  }

  @Test(.enabled(if: isInstalled("nbdcopy"), "nbdcopy is not installed (package libnbd-bin)"))
  func nbdcopy() async throws {
    let source = random(4_000)
    let target = MemoryDevice(sectorCount: 4_000)
    try await TestServer.serving(["source": source, "target": target]) { test in
      let (status, text) = try await run(
        "nbdcopy",
        [
          "--flush", "nbd+unix:///source?socket=\(test.socket)",
          "nbd+unix:///target?socket=\(test.socket)",
        ])
      #expect(status == 0, "\(text)")
    }
    #expect(source.contents(0..<4_000) == target.contents(0..<4_000))
  }

  @Test(.enabled(if: isInstalled("qemu-img"), "qemu-img is not installed (package qemu-utils)"))
  func qemu() async throws {
    let source = random(4_000)
    let target = MemoryDevice(sectorCount: 4_000)
    try await TestServer.serving(["source": source, "target": target]) { test in
      let uri = { (name: String) in "nbd+unix:///\(name)?socket=\(test.socket)" }
      let (status, text) = try await run(
        "qemu-img",
        ["convert", "-n", "-f", "raw", "-O", "raw", uri("source"), uri("target")])
      #expect(status == 0, "\(text)")
      let (same, why) = try await run(
        "qemu-img", ["compare", "-f", "raw", "-F", "raw", uri("source"), uri("target")])
      #expect(same == 0, "\(why)")
      let (io, output) = try await run(
        "qemu-io",
        [
          "-f", "raw", "-c", "write -P 7 1000 70000", "-c", "read -P 7 1000 70000",
          "-c", "write -z 4096 8192", "-c", "read -P 0 4096 8192", "-c", "discard 64k 64k",
          "-c", "flush", uri("target"),
        ])
      #expect(io == 0 && !output.contains("failed"), "\(output)")
    }
  }

  @Test(.enabled(if: isInstalled("fio"), "fio is not installed"))
  func fio() async throws {
    guard try await run("fio", ["--enghelp=nbd"]).0 == 0 else {
      return print("skipped: fio has no NBD engine here")
    }
    let device = random(16384)
    try await TestServer.serving(["disk": device]) { test in
      let (status, text) = try await run(
        "fio",
        [
          "--name=x", "--ioengine=nbd", "--uri=nbd+unix:///disk?socket=\(test.socket)",
          "--rw=randwrite", "--bsrange=512-64k", "--size=8M", "--io_size=16M", "--iodepth=16",
          "--verify=crc32c", "--verify_state_save=0", "--fsync=50", "--thread",
        ])
      #expect(status == 0, "\(text)")
    }
  }

  private static let hasLibnbd: Bool = {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
    process.arguments = ["-c", "import nbd"]
    process.standardError = FileHandle.nullDevice
    guard (try? process.run()) != nil else { return false }
    process.waitUntilExit()
    return process.terminationStatus == 0
  }()

  /// What libnbd does only when asked to be careless.
  @Test(.enabled(if: hasLibnbd, "Python has no module nbd (package python3-libnbd)"))
  func libnbd() async throws {
    let device = numberedDisk(2048)
    try await TestServer.serving(["disk": device, "other": numberedDisk(8)]) { test in
      let (status, text) = try await run("python3", ["-c", Self.edges, test.socket])
      #expect(status == 0, "\(text)")
    }
  }

  private static let edges = """
    import errno, nbd, sys
    uri = lambda name: f"nbd+unix:///{name}?socket={sys.argv[1]}"
    size = 1 << 20

    def refused(number, call, *args, **kwargs):
        try:
            call(*args, **kwargs)
        except nbd.Error as error:
            assert error.errnum == number, (call, args, error)
        else:
            raise AssertionError(f"{call} {args} went well")

    # The handshake, option by option.
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.set_full_info(True)
    h.connect_uri(uri(""))
    names = []
    h.opt_list(lambda name, description: names.append(name))
    assert sorted(names) == ["disk", "other"], names
    h.set_export_name("none")
    refused(errno.ENOENT, h.opt_info)
    h.set_export_name("disk")
    h.opt_info()
    assert h.get_size() == size
    contexts = []
    h.add_meta_context("base:")
    h.opt_list_meta_context(contexts.append)
    assert contexts == ["base:allocation"], contexts
    h.add_meta_context("x:y")
    h.add_meta_context("base:allocation")
    h.opt_go()
    assert h.get_canonical_export_name() == "disk" and h.can_meta_context("base:allocation")
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
    h.set_strict_mode(0)
    refused(errno.EINVAL, h.pread, 512, size)
    refused(errno.EINVAL, h.pread, 2, size - 1)
    refused(errno.EINVAL, h.pread, 0, 0)
    refused(errno.ENOSPC, h.pwrite, b"x" * 512, size)
    refused(errno.ENOSPC, h.zero, 512, size)
    refused(errno.EINVAL, h.trim, 512, size - 511)
    refused(errno.EINVAL, h.block_status, 512, size, lambda *a: 0)
    refused(errno.EINVAL, h.pread, 512, 0, 0x8000)
    refused(errno.EINVAL, h.pwrite, b"x" * 512, 0, 0x8000)
    before = h.pread(4096, 0)
    assert h.pread(4096, 0, nbd.CMD_FLAG_DF) == before
    h.pwrite(b"abc", 1, nbd.CMD_FLAG_FUA)
    assert h.pread(4096, 0) == before[:1] + b"abc" + before[4:]
    h.zero(1000, 100, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_FAST_ZERO)
    assert h.pread(1000, 100) == bytes(1000)
    h.cache(4096, 1)
    seen = []
    h.block_status(size, 0, lambda name, start, entries, error: seen.append(entries))
    assert sum(seen[0][::2]) == size, seen
    seen.clear()
    h.block_status(size, 0, lambda n, s, entries, e: seen.append(entries), nbd.CMD_FLAG_REQ_ONE)
    assert len(seen[0]) == 2 and seen[0][0] <= size, seen
    h.flush()
    h.shutdown()

    # Many at once on several connections, and reads in pieces as they come.
    handles = [nbd.NBD() for _ in range(3)]
    for h in handles:
        h.connect_uri(uri("disk"))
    buffers = []
    for index in range(90):
        h = handles[index % 3]
        buffer = nbd.Buffer(8192)
        buffers.append((index, buffer, h, h.aio_pread(buffer, index * 8192)))
    for index, buffer, h, cookie in buffers:
        while not h.aio_command_completed(cookie):
            h.poll(-1)
        assert buffer.to_bytearray() == handles[0].pread(8192, index * 8192)
    handles[0].pwrite(b"z" * 512, 0)
    assert handles[1].pread(512, 0) == b"z" * 512
    handles[2].flush()

    # Neither structured replies nor the newer options.
    h = nbd.NBD()
    h.set_request_structured_replies(False)
    h.set_handshake_flags(0)
    h.connect_uri(uri("disk"))
    assert h.get_protocol() == "newstyle" and h.pread(512, 0) == b"z" * 512
    h.shutdown()
    """
}
