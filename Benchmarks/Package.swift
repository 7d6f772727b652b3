// swift-tools-version: 6.2
import PackageDescription

let package = Package(
  name: "kcopyd-benchmarks",
  platforms: [.macOS(.v26)],
  dependencies: [
    .package(name: "kcopyd", path: ".."),
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
  ],
  targets: [
    .target(name: "BareLoops"),
    .executableTarget(
      name: "device-bench",
      dependencies: [
        "BareLoops",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "BlockIO", package: "kcopyd"),
        .product(name: "Kcopyd", package: "kcopyd"),
        .product(name: "Mirrors", package: "kcopyd"),
        .product(name: "Snapshots", package: "kcopyd"),
      ],
      swiftSettings: [.treatAllWarnings(as: .error)]
    ),
    .executableTarget(
      name: "kcopyd-bench",
      dependencies: [
        "BareLoops",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
        .product(name: "BlockIO", package: "kcopyd"),
        .product(name: "Kcopyd", package: "kcopyd"),
      ],
      swiftSettings: [.treatAllWarnings(as: .error)]
    ),
  ],
  swiftLanguageModes: [.v6]
)
