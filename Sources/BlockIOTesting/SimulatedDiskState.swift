import BlockIO
import SystemPackage

extension SimulatedDisk {
  /// A request as it was made.
  struct Request: Sendable {
    let operation: IOFailure.Operation
    let name: String
    let sectors: Range<Sector>?
    let payload: Payload
    let isDurable: Bool

    func failure(_ errno: Errno, _ detail: String? = nil) -> IOFailure {
      IOFailure(operation, name, sectors, errno: errno, detail: detail)
    }
  }

  /// A part of a request: after `delay` these sectors are moved.
  struct Step: Sendable {
    let delay: Duration
    let sectors: Range<Sector>
  }

  /// How a request will go, decided when it begins.
  struct Course: Sendable {
    let number: Int
    let request: Request
    let steps: [Step]
    /// From the last step to the end.
    let closing: Duration
    /// How it will fail.
    let failure: IOFailure?
    /// What a flush covers.
    let covered: Int
    let powerCycle: Int
  }

  /// A request under way.
  struct OpenRequest: Sendable {
    let number: Int
    let request: Request
    /// What hasn't been moved yet.
    var rest: [Range<Sector>]
  }

  struct State: Sendable {
    var contents: DiskContents
    /// The size as the disk's users know it.
    var sectorCount: Sector
    var plan: FaultPlan
    var isPowered = true
    var log: [LoggedRequest] = []
    var open: [OpenRequest] = []

    private var random: SeededRandom
    private var number = 0
    /// How often the power has gone: a request of another cycle is dead.
    private var powerCycle = 0

    init(contents: DiskContents, plan: FaultPlan, random: SeededRandom) {
      self.contents = contents
      sectorCount = contents.sectorCount
      self.plan = plan
      self.random = random
    }

    // MARK: Course of a request

    mutating func begin(_ request: Request, at start: LoopInstant) throws(IOFailure) -> Course {
      guard isPowered else { throw request.failure(.ioError, powerLost) }
      log.append(
        LoggedRequest(
          number: number, operation: request.operation, sectors: request.sectors,
          isDurable: request.isDurable, start: start))
      defer { number += 1 }
      var failure: IOFailure?
      var todo = request.sectors ?? .zero..<Sector.zero
      if let fault = plan.failure(of: request.operation, todo) {
        if let sectors = request.sectors {
          failure = IOFailure(
            request.operation, request.name, fault.sector..<sectors.upperBound, errno: fault.errno)
          todo = sectors.lowerBound..<fault.sector
        } else {
          failure = request.failure(fault.errno)
        }
      }
      let steps = steps(todo, extra: plan.delay(of: request.sectors ?? .zero..<Sector.zero))
      open.append(OpenRequest(number: number, request: request, rest: steps.map(\.sectors)))
      return Course(
        number: number, request: request, steps: steps,
        closing: random.duration(in: SimulatedDisk.stepLatency), failure: failure,
        covered: contents.now, powerCycle: powerCycle)
    }

    /// Cuts a request into one step per sector or two to four for more, in any order.
    private mutating func steps(_ sectors: Range<Sector>, extra: Duration) -> [Step] {
      var cuts: [Range<Sector>] = []
      var rest = sectors
      let pieces = sectors.length < 2 ? 1 : 2 + random.next(upperBound: UInt64(3))
      while UInt64(cuts.count) + 1 < pieces, rest.length > 1 {
        let cut = rest.lowerBound + Sector(1 + random.next(upperBound: rest.length.rawValue - 1))
        cuts.append(rest.lowerBound..<cut)
        rest = cut..<rest.upperBound
      }
      cuts.append(rest)
      cuts.shuffle(using: &random)
      return cuts.enumerated().map { index, sectors in
        let delay = random.duration(in: SimulatedDisk.stepLatency)
        return Step(delay: index == 0 ? delay + extra : delay, sectors: sectors)
      }
    }

    /// Moves the data of one step; the failure if the power has gone meanwhile.
    mutating func take(_ step: Step, of course: Course) -> IOFailure? {
      guard course.powerCycle == powerCycle else {
        return course.request.failure(.ioError, powerLost)
      }
      if let index = open.firstIndex(where: { $0.number == course.number }) {
        open[index].rest.removeAll { $0 == step.sectors }
      }
      guard !step.sectors.isEmpty else { return nil }
      if case .into(let buffer) = course.request.payload {
        read(step.sectors, into: part(of: buffer, step.sectors, course.request))
      } else {
        land(step.sectors, of: course.request, number: course.number)
      }
      return nil
    }

    mutating func end(
      _ course: Course, _ failure: IOFailure?, at end: LoopInstant
    ) throws(IOFailure) {
      var failure = failure ?? course.failure
      if course.powerCycle != powerCycle { failure = course.request.failure(.ioError, powerLost) }
      if let index = log.lastIndex(where: { $0.number == course.number }) {
        log[index].end = end
        log[index].failure = failure
      }
      if course.powerCycle == powerCycle {
        open.removeAll { $0.number == course.number }
        contents.complete(request: course.number)
      }
      if let failure { throw failure }
      if course.request.isDurable { contents.makeDurable(request: course.number) }
      if course.request.operation == .flush, !plan.ignoresFlushes {
        contents.makeDurable(before: course.covered)
      }
    }

    // MARK: Moving data

    private func part(
      of buffer: IOBuffer, _ sectors: Range<Sector>, _ request: Request
    ) -> IOBuffer {
      let first = request.sectors?.lowerBound ?? .zero
      return buffer.slice(sectors.lowerBound - first, sectors.length)
    }

    private func read(_ sectors: Range<Sector>, into buffer: IOBuffer) {
      contents.read(sectors, into: buffer)
      for lie in plan.lies(.corruptRead, about: sectors) {
        var sector = lie.lowerBound
        while sector < lie.upperBound {
          buffer.slice(sector - sectors.lowerBound, 1).withMutableBytes { bytes in
            bytes.storeBytes(of: 0x21, toByteOffset: 300, as: UInt8.self)
          }
          sector += 1
        }
      }
    }

    private mutating func land(_ sectors: Range<Sector>, of request: Request, number: Int) {
      var bytes = [UInt8](repeating: 0, count: Int(sectors.length.bytes))
      var areZeroes = false
      switch request.payload {
      case .none, .into: return
      case .from(let buffer): part(of: buffer, sectors, request).store(into: &bytes)
      case .zeroes: areZeroes = true
      case .discarded:
        // The old data, zeros, or something else.
        switch random.next(upperBound: UInt64(3)) {
        case 0: return
        case 1: areZeroes = true
        default: bytes = Pattern("trash").bytes(sectors)
        }
      }
      for lie in plan.lies(.lostWrite, about: sectors) {
        bytes.overwrite(
          at: Int((lie.lowerBound - sectors.lowerBound).bytes), with: contents.contents(lie))
      }
      contents.land(sectors, bytes, request: number, areZeroes: areZeroes)
    }

    // MARK: Power

    mutating func crash(random: inout SeededRandom) {
      guard isPowered else { return }
      // Under way may mean that it just got there.
      for request in open {
        for sectors in request.rest where !sectors.isEmpty {
          land(sectors, of: request.request, number: request.number)
        }
      }
      open = []
      contents.crash(random: &random)
      isPowered = false
      powerCycle += 1
    }
  }
}
