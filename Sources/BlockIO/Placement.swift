/// Where else a device's bytes are: on the disk that it is a partition of, in the file behind a loop
/// device.
public struct DevicePlacement: Hashable, Sendable {
  /// The device or file below.
  public let identity: DeviceIdentity
  /// The bytes there.
  public let bytes: Range<UInt64>
  /// Whether the device is exactly these bytes, in order. Otherwise it is some of them, in an order
  /// that isn't known: a logical volume, an array.
  public let isInOrder: Bool

  /// A placement.
  public init(_ identity: DeviceIdentity, bytes: Range<UInt64>, isInOrder: Bool) {
    self.identity = identity
    self.bytes = bytes
    self.isInOrder = isInOrder
  }

  /// Whether both share bytes. Of two volumes that are somewhere on the same disk nothing is said.
  func overlaps(_ other: Self) -> Bool {
    identity == other.identity && (isInOrder || other.isInOrder) && bytes.overlaps(other.bytes)
  }

  /// Where a part of the device is, as far as that is known.
  func part(_ part: Range<UInt64>) -> Self {
    guard isInOrder else { return self }
    let first = bytes.lowerBound
    let (start, startOverflow) = first.addingReportingOverflow(part.lowerBound)
    let (end, endOverflow) = first.addingReportingOverflow(part.upperBound)
    let limit = bytes.upperBound
    return Self(
      identity,
      bytes: (startOverflow ? limit : min(start, limit))..<(endOverflow ? limit : min(end, limit)),
      isInOrder: true)
  }
}

extension IORegion {
  /// Whether the regions share sectors: of one device, whatever its names, or of two of which one
  /// lies on the other, or both on a third.
  public func overlaps(_ other: IORegion) -> Bool {
    guard device.identity != other.device.identity else { return sectors.overlaps(other.sectors) }
    let (mine, theirs) = (device.placements, other.device.placements)
    // As good as always: it is asked for every job.
    if mine.isEmpty && theirs.isEmpty { return false }
    guard count > .zero, other.count > .zero else { return false }
    let others = other.places(theirs)
    return places(mine).contains { place in others.contains { place.overlaps($0) } }
  }

  private func places(_ below: [DevicePlacement]) -> [DevicePlacement] {
    let bytes = sectors.lowerBound.bytes..<sectors.upperBound.bytes
    return [DevicePlacement(device.identity, bytes: bytes, isInOrder: true)]
      + below.map { $0.part(bytes) }
  }
}

extension BlockDevice {
  /// Whether two devices are one, or share sectors as one lies on the other.
  public func sharesSectors(with other: any BlockDevice) -> Bool {
    identity == other.identity
      || IORegion(self, count: sectorCount).overlaps(IORegion(other, count: other.sectorCount))
  }
}
