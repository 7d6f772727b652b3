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

let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let metrics = Target.Dependency.product(name: "Metrics", package: "swift-metrics")
let lifecycle = Target.Dependency.product(
  name: "ServiceLifecycle", package: "swift-service-lifecycle")
let signals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let configuration = Target.Dependency.product(
  name: "Configuration", package: "swift-configuration")
let nio: [Target.Dependency] = [
  .product(name: "NIOCore", package: "swift-nio"),
  .product(name: "NIOPosix", package: "swift-nio"),
  .product(name: "NIOTLS", package: "swift-nio"),
  .product(name: "NIOSSL", package: "swift-nio-ssl"),
]

let package = Package(
  name: "kcopyd",
  platforms: [.macOS("26.0")],
  products: [
    .library(name: "BlockIO", targets: ["BlockIO"]),
    .library(name: "Kcopyd", targets: ["Kcopyd"]),
    .library(name: "Snapshots", targets: ["Snapshots"]),
    .library(name: "Mirrors", targets: ["Mirrors"]),
    .library(name: "Imaging", targets: ["Imaging"]),
    .library(name: "DeviceMapper", targets: ["DeviceMapper"]),
    .library(name: "NBD", targets: ["NBD"]),
    .library(name: "libkcopyd", type: .dynamic, targets: ["KcopydABI"]),
    .executable(name: "kcopyd", targets: ["KcopydTool"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
    .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
    .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
    .package(url: "https://github.com/apple/swift-configuration", from: "1.4.0"),
    .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
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
      name: "Imaging", dependencies: ["Kcopyd", "BlockIO", system, crypto],
      swiftSettings: settings),
    .target(
      name: "DeviceMapper", dependencies: ["Snapshots", "Mirrors", "Kcopyd", "BlockIO", system],
      swiftSettings: settings),
    .target(
      name: "NBD", dependencies: ["BlockIO", system, logging] + nio, swiftSettings: settings),
    .target(
      name: "Daemon",
      dependencies: [
        "DeviceMapper", "NBD", "Snapshots", "Mirrors", "Kcopyd", "BlockIO", "CBlockIO", system,
        logging,
        metrics, lifecycle, signals, configuration,
      ] + nio,
      swiftSettings: settings),
    .target(
      name: "BlockIOTesting", dependencies: ["BlockIO", system], swiftSettings: settings),
    // What a real kernel wrote, and what does it again; for tests only.
    .target(
      name: "DeviceMapperTesting",
      dependencies: ["DeviceMapper", "Mirrors", "BlockIO", "BlockIOTesting", system],
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
        "Daemon", "DeviceMapper", "NBD", "Imaging", "Mirrors", "Snapshots", "Kcopyd", "BlockIO",
        "CBlockIO", system, logging, arguments,
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
    .testTarget(
      name: "ImagingTests",
      dependencies: ["Imaging", "Kcopyd", "BlockIO", "BlockIOTesting", system],
      swiftSettings: settings),
    .testTarget(
      name: "DeviceMapperTests",
      dependencies: [
        "DeviceMapper", "Snapshots", "Mirrors", "Kcopyd", "BlockIO", "BlockIOTesting", system,
      ],
      swiftSettings: settings),
    .testTarget(
      name: "NBDTests",
      dependencies: [
        "NBD", "BlockIO", "BlockIOTesting", system,
        .product(name: "NIOEmbedded", package: "swift-nio"),
      ] + nio,
      swiftSettings: settings),
    .testTarget(
      name: "DaemonTests",
      dependencies: [
        "Daemon", "DeviceMapper", "NBD", "BlockIO", "BlockIOTesting", system, logging, metrics,
      ] + nio,
      swiftSettings: settings),
    .testTarget(name: "KcopydABITests", dependencies: ["KcopydABI"], swiftSettings: settings),
    .testTarget(
      name: "KcopydToolTests",
      dependencies: ["KcopydTool", "Snapshots", "Kcopyd", "BlockIO", system],
      swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6]
)
