import BlockIO
import BlockIOTesting
import DeviceMapperTesting
import Mirrors
import Testing

/// What a real kernel did with mirrors is done again: to the same bytes and with the same words.
@Suite struct MirrorVectorTests {
  @Test func allCasesAreThere() throws {
    let cases = try KernelVectors.cases(.mirrors)
    #expect(cases.count == 8)
    #expect(cases.flatMap(\.stages).count == 27)
  }

  /// The fixtures describe the images; what is made from them is what the kernel wrote.
  @Test(arguments: try KernelVectors.cases(.mirrors))
  func imagesAreTheKernels(_ vectors: KernelVectors.Case) throws {
    for stage in vectors.stages where stage.scratch != true {
      for (name, bytes) in try vectors.imagesAfter(stage) {
        let expected = try #require(stage.images[name]).sha256
        #expect(SHA256.hex(bytes) == expected, "\(stage.name) \(name)")
      }
    }
  }

  // MARK: As the kernel does it

  /// The operations of every stage, on the images with which it began, give the same answers –
  /// tables, status lines, contents, sectors written – and the same images, logs included. So do
  /// those that a loss of power ends: what hangs on timing there has the same timing here.
  @Test(arguments: try KernelVectors.places(.mirrors))
  func replays(_ place: KernelVectors.Place) throws {
    let (said, images) = try Self.replay(place, .kernel)
    #expect(said == [])
    try Self.expect(images, after: place)
  }

  // MARK: Better than the kernel

  /// The same by default, where the power doesn't fail: the same legs and logs, and the same
  /// answers.
  @Test(arguments: try KernelVectors.places(.mirrors).filter { !$0.endsWithCrash })
  func replaysByDefault(_ place: KernelVectors.Place) throws {
    let (said, images) = try Self.replay(place, MirrorParameters.Conduct())
    #expect(said == [])
    try Self.expect(images, after: place)
  }

  /// Legs and log are as the kernel left them. What a scratch stage made of a log is known by its
  /// sum only.
  private static func expect(
    _ images: [String: [UInt8]], after place: KernelVectors.Place
  ) throws {
    let expected = try place.vectors.imagesAfter(place.stage)
    for (name, bytes) in images {
      if name == "log" {
        let sum = try #require(place.stage.images[name]).sha256
        #expect(SHA256.hex(bytes) == sum)
      }
      guard name != "log" || place.stage.scratch != true else { continue }
      let mismatch = ContentMismatch(bytes, expected: try #require(expected[name]), from: 0)
      #expect(mismatch == nil, "\(name)")
    }
  }

  /// What is said otherwise than by the kernel in a stage, and the images at its end.
  private static func replay(
    _ place: KernelVectors.Place, _ conduct: MirrorParameters.Conduct
  ) throws -> ([String], [String: [UInt8]]) {
    try simulate { loop in
      let machine = try VectorMachine.simulated(
        place.vectors, place.vectors.imagesBefore(place.stage), mirrors: conduct, on: loop)
      let said = try await machine.replay(place.stage)
      var images: [String: [UInt8]] = [:]
      for name in place.vectors.images.keys { images[name] = try machine.disk(name).image }
      return (said, images)
    }
  }
}
