// swift-tools-version: 6.2
import PackageDescription

let settings: [SwiftSetting] = [
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableExperimentalFeature("Lifetimes"),
]

let system = Target.Dependency.product(name: "SystemPackage", package: "swift-system")
let heap = Target.Dependency.product(name: "HeapModule", package: "swift-collections")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
  name: "kcopyd",
  platforms: [.macOS("26.0")],
  products: [
    .library(name: "BlockIO", targets: ["BlockIO"]),
    .library(name: "Kcopyd", targets: ["Kcopyd"]),
    .library(name: "Snapshots", targets: ["Snapshots"]),
    .library(name: "Mirrors", targets: ["Mirrors"]),
    .library(name: "libkcopyd", type: .dynamic, targets: ["KcopydABI"]),
    .executable(name: "kcopyd", targets: ["KcopydTool"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
  ],
  targets: [
    // Constants and calls of the operating system that Swift's C modules leave out.
    .target(name: "CBlockIO"),
    .target(
      name: "BlockIO",
      dependencies: ["CBlockIO", system, heap, deque, logging],
      swiftSettings: settings),
    .target(name: "Kcopyd", dependencies: ["BlockIO", system, deque], swiftSettings: settings),
    .target(
      name: "Snapshots", dependencies: ["Kcopyd", "BlockIO", system, deque],
      swiftSettings: settings),
    .target(
      name: "Mirrors", dependencies: ["Kcopyd", "BlockIO", system, deque],
      swiftSettings: settings),
    .target(
      name: "BlockIOTesting", dependencies: ["BlockIO", system], swiftSettings: settings),
    // What a real kernel wrote, and a table interpreter to do it again; for tests only.
    .target(
      name: "DeviceMapperTesting",
      dependencies: ["Snapshots", "Mirrors", "BlockIO", "BlockIOTesting", system],
      exclude: ["make-fixtures.py"],
      resources: [.copy("Fixtures")],
      swiftSettings: settings),
    .target(name: "CKcopyd"),
    .target(
      name: "KcopydABI",
      dependencies: ["CKcopyd", "Kcopyd", "BlockIO", system],
      swiftSettings: settings),
    .executableTarget(
      name: "KcopydTool",
      dependencies: [
        "Mirrors", "Snapshots", "Kcopyd", "BlockIO", "CBlockIO", system, logging, arguments,
      ],
      swiftSettings: settings),
    .testTarget(
      name: "BlockIOTests",
      dependencies: ["BlockIO", "BlockIOTesting", system],
      swiftSettings: settings),
    .testTarget(
      name: "KcopydTests",
      dependencies: ["Kcopyd", "BlockIO", "BlockIOTesting", system],
      swiftSettings: settings),
    .testTarget(
      name: "SnapshotsTests",
      dependencies: [
        "Snapshots", "Kcopyd", "BlockIO", "BlockIOTesting", "DeviceMapperTesting", system,
      ],
      swiftSettings: settings),
    .testTarget(
      name: "MirrorsTests",
      dependencies: [
        "Mirrors", "Kcopyd", "BlockIO", "BlockIOTesting", "DeviceMapperTesting", system,
      ],
      swiftSettings: settings),
    .testTarget(name: "KcopydABITests", dependencies: ["KcopydABI"], swiftSettings: settings),
    .testTarget(
      name: "KcopydToolTests",
      dependencies: ["KcopydTool", "Snapshots", "Kcopyd", "BlockIO", system],
      swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6]
)
