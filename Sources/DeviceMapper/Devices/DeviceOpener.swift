public import BlockIO
import SystemPackage

/// How words of a table that name no mapped device become devices: given by the owner of the
/// mapper, who knows files, URIs, or the disks of a simulation.
public struct DeviceOpener: Sendable {
  /// Opens the device that a word names, for writing or only for reading.
  public let open:
    @Sendable (_ word: String, _ isWritable: Bool) async throws(IOFailure)
      -> any BlockDevice
  /// What the device of a word is, without opening it; nil where that can't be said.
  public let identity: @Sendable (_ word: String) -> DeviceIdentity?
  /// What status and table lines call a device, where that isn't the word that opened it: the
  /// `major:minor` of a disk.
  public let number: @Sendable (_ word: String, any BlockDevice) -> String?

  /// A way to open devices.
  public init(
    identity: @escaping @Sendable (String) -> DeviceIdentity? = { _ in nil },
    number: @escaping @Sendable (String, any BlockDevice) -> String? = { _, _ in nil },
    open: @escaping @Sendable (String, Bool) async throws(IOFailure) -> any BlockDevice
  ) {
    self.open = open
    self.identity = identity
    self.number = number
  }

  /// Files and block specials by path, block specials also by `major:minor`; words with a scheme
  /// (`nbd://…`) by `uri`.
  ///
  /// - Parameter uri: opens what has a scheme; nil: there is nothing of the kind.
  public static func files(
    direct: DirectChoice = .auto, on loop: IOLoop,
    uri: (@Sendable (String, Bool) async throws(IOFailure) -> any BlockDevice)? = nil
  ) -> DeviceOpener {
    DeviceOpener(
      identity: { word in
        hasScheme(word) ? nil : FileDevice.identity(of: path(word))
      },
      number: { _, device in
        guard case .blockSpecial(let number) = device.identity else { return nil }
        return "\(number >> 8 & 0xfff | number >> 32 & ~0xfff)"
          + ":\(number & 0xff | number >> 12 & 0xffff_ff00)"
      },
      open: { word, isWritable async throws(IOFailure) in
        if hasScheme(word) {
          guard let uri else {
            throw IOFailure(
              .open, word, errno: .notSupported, detail: "nothing here opens devices of that scheme"
            )
          }
          return try await uri(word, isWritable)
        }
        let options = FileDevice.Options(
          isWritable: isWritable, direct: direct, lock: isWritable ? .exclusive : .shared)
        let opened = await loop.blocking {
          Result { () throws(IOFailure) in
            try FileDevice.open(path(word), options, on: loop)
          }
        }
        return try opened.get()
      })
  }

  /// Whether a word is a URI.
  static func hasScheme(_ word: String) -> Bool {
    guard let colon = word.utf8.firstIndex(of: UInt8(ascii: ":")) else { return false }
    let scheme = word[..<colon]
    return word[colon...].hasPrefix("://") && scheme.first?.isLetter == true
      && scheme.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "+-.".contains($0)) }
  }

  private static func path(_ word: String) -> String {
    let parts = word.split(separator: ":", omittingEmptySubsequences: false)
    let isNumber = parts.count == 2 && parts.allSatisfy { UInt32($0) != nil }
    return isNumber ? "/dev/block/\(word)" : word
  }
}
