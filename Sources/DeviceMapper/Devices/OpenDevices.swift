import BlockIO
import SystemPackage

/// Devices of others that tables use, each opened once: what the same file is called by two words is
/// one device. On the mapper's actor only.
final class OpenDevices {
  /// What a device of a table is to whoever keeps count of it.
  enum Key: Hashable, Sendable {
    /// A mapped device, by its minor number.
    case mapped(Int)
    /// An opened one.
    case opened(DeviceIdentity, isWritable: Bool)
  }

  private struct Opened {
    let device: any BlockDevice
    var users: Int
  }

  private let opener: DeviceOpener
  private var opened: [Key: Opened] = [:]
  private var words: [String: DeviceIdentity] = [:]
  private var isOpening = false
  private let hasOpened = Gate()

  init(_ opener: DeviceOpener) { self.opener = opener }

  /// Opens a device, or takes it once more.
  ///
  /// - Parameter isolation: the mapper.
  func take(
    _ word: TableWord, isWritable: Bool, isolation: isolated (any Actor) = #isolation
  ) async throws(DeviceMapperError) -> TableDevice {
    // One after the other: the second of two that open the same must find the first one's.
    while isOpening { await hasOpened.wait { isOpening } }
    isOpening = true
    defer {
      isOpening = false
      hasOpened.open()
    }
    let identity = opener.identity(word.text) ?? words[word.text]
    if let identity, let found = share(identity, word, isWritable: isWritable) { return found }
    do throws(IOFailure) {
      let device = try await opener.open(word.text, isWritable)
      // Only now known to be one that is open.
      if let found = share(device.identity, word, isWritable: isWritable) { return found }
      let key = Key.opened(device.identity, isWritable: isWritable)
      opened[key] = Opened(device: device, users: 1)
      words[word.text] = device.identity
      return TableDevice(device, word, isWritable: isWritable, key: key)
    } catch {
      throw DeviceMapperError(
        .io, line: word.line, word: word.position, error.description,
        advice: error.errno == .noSuchFileOrDirectory
          ? "it is neither a mapped device nor a file" : nil)
    }
  }

  private func share(
    _ identity: DeviceIdentity, _ word: TableWord, isWritable: Bool
  ) -> TableDevice? {
    for mode in isWritable ? [true] : [true, false] {
      let key = Key.opened(identity, isWritable: mode)
      guard let device = opened[key]?.device else { continue }
      opened[key]?.users += 1
      return TableDevice(device, word, isWritable: mode, key: key)
    }
    return nil
  }

  /// What a device is called by its number.
  func number(_ device: TableDevice) -> String? { opener.number(device.word.text, device.device) }

  /// The number of an opened device, for whoever prints without being on the mapper's actor.
  var numbers: @Sendable (String, any BlockDevice) -> String? { opener.number }

  /// Gives a device back; with the last one it is closed.
  func release(_ device: TableDevice) {
    guard var entry = opened[device.key] else { return }
    entry.users -= 1
    guard entry.users == 0 else {
      opened[device.key] = entry
      return
    }
    opened[device.key] = nil
    let identity = entry.device.identity
    words = words.filter { $0.value != identity }
  }
}
