import CBlockIO
import SystemPackage

/// Looks for what a block special lies on: partition tables, loop devices and stacked devices down
/// to what isn't made of anything else. What files lie on isn't asked.
struct PlacementSearch {
  /// What the device is; a loop device that shows a whole file is that file.
  private(set) var identity: DeviceIdentity
  private(set) var found: [DevicePlacement] = []

  /// Stacks don't go on forever, even if what is told of them does.
  private static let maximumDepth = 16

  init(device: UInt64, file: FileDescriptor, byteCount: UInt64) {
    identity = .blockSpecial(device: device)
    descend(from: device, 0..<byteCount, isInOrder: true, asking: file, depth: 0)
    var backing = blockio_loop_backing()
    if SystemBlock(device: device).number("partition") == nil,
      blockio_loop_backing(file.rawValue, &backing) == 0, backing.offset == 0,
      backing.size_limit == 0
    {
      identity = Self.identity(of: backing)
      found.removeAll { $0.identity == identity }
    }
  }

  /// - Parameters:
  ///   - device: the device that has been come to.
  ///   - bytes: where on it the first one is.
  ///   - file: the first one, opened, as long as only partitions lie between: it answers for a loop
  ///     device below.
  private mutating func descend(
    from device: UInt64, _ bytes: Range<UInt64>, isInOrder: Bool, asking file: FileDescriptor?,
    depth: Int
  ) {
    guard depth < Self.maximumDepth else { return }
    let block = SystemBlock(device: device)
    if block.number("partition") != nil {
      guard let start = block.number("start"), let disk = block.device("../dev"),
        let below = Self.shifted(bytes, by: start, unit: Sector.byteCount)
      else { return }
      add(.init(.blockSpecial(device: disk), bytes: below, isInOrder: isInOrder))
      descend(from: disk, below, isInOrder: isInOrder, asking: file, depth: depth + 1)
    } else if let (identity, offset) = loop(block, file) {
      guard let below = Self.shifted(bytes, by: offset, unit: 1) else { return }
      add(.init(identity, bytes: below, isInOrder: isInOrder))
      if case .blockSpecial(let device) = identity {
        descend(from: device, below, isInOrder: isInOrder, asking: nil, depth: depth + 1)
      }
    } else {
      for name in block.slaves {
        guard let device = block.device("slaves/\(name)/dev") else { continue }
        let sectors = block.number("slaves/\(name)/size") ?? .max / Sector.byteCount
        let whole = 0..<sectors * Sector.byteCount
        add(.init(.blockSpecial(device: device), bytes: whole, isInOrder: false))
        descend(from: device, whole, isInOrder: false, asking: nil, depth: depth + 1)
      }
    }
  }

  private mutating func add(_ placement: DevicePlacement) { found.append(placement) }

  /// What is behind a loop device, and from which byte on; nil: it is none, or it can't be told.
  private func loop(
    _ block: SystemBlock, _ file: FileDescriptor?
  ) -> (DeviceIdentity, offset: UInt64)? {
    var backing = blockio_loop_backing()
    if let file, blockio_loop_backing(file.rawValue, &backing) == 0 {
      return (Self.identity(of: backing), backing.offset)
    }
    guard let path = block.text("loop/backing_file"), let kind = FileKind(path: path) else {
      return nil
    }
    return (
      kind.isBlockSpecial
        ? .blockSpecial(device: kind.specialDevice)
        : .file(device: kind.device, inode: kind.inode),
      block.number("loop/offset") ?? 0
    )
  }

  private static func identity(of backing: blockio_loop_backing) -> DeviceIdentity {
    backing.special_device == 0
      ? .file(device: backing.device, inode: backing.inode)
      : .blockSpecial(device: backing.special_device)
  }

  private static func shifted(
    _ bytes: Range<UInt64>, by count: UInt64, unit: UInt64
  ) -> Range<UInt64>? {
    let (shift, tooFar) = count.multipliedReportingOverflow(by: unit)
    let (end, endOverflow) = bytes.upperBound.addingReportingOverflow(shift)
    return tooFar || endOverflow ? nil : bytes.lowerBound + shift..<end
  }
}
