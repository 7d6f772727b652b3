import ArgumentParser

/// The sizes at which the bare loops run. The defaults are the best found on a small virtual
/// machine (2 cores, NVMe-backed virtio disk); another machine may want others.
struct Tuning: ParsableArguments {
  @Option(help: "Block of the bare ring with O_DIRECT.")
  var ringBlock = ByteSize(bytes: 1 << 20)

  @Option(help: "Blocks in flight of the bare ring with O_DIRECT.")
  var ringSlots = 8

  @Option(help: "Block of the bare ring in the page cache.")
  var cachedRingBlock = ByteSize(bytes: 4 << 20)

  @Option(help: "Blocks in flight of the bare ring in the page cache.")
  var cachedRingSlots = 4

  @Option(help: "Block of the bare loops that run on threads.")
  var threadBlock = ByteSize(bytes: 2 << 20)

  func validate() throws {
    guard ringSlots > 0, cachedRingSlots > 0 else {
      throw ValidationError("a ring needs at least one slot")
    }
    let blocks = [ringBlock, cachedRingBlock, threadBlock]
    guard blocks.allSatisfy({ $0.bytes % 4096 == 0 && $0.bytes <= 1 << 30 }) else {
      throw ValidationError("blocks are multiples of 4KiB, at most 1GiB")
    }
  }
}
