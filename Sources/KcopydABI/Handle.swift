/// C holds Swift objects by their addresses, as pointers to structs it knows nothing of. Reference
/// counting can't see such a pointer, so it stands for one reference that the function which makes
/// the handle takes and the one that ends it gives back. That a handle is what it says, and still
/// alive, is the C caller's word: nothing can check it.
extension OpaquePointer {
  /// A handle that keeps `object` alive until ``release(_:)``.
  init(retaining object: some AnyObject) {
    self.init(Unmanaged.passRetained(object).toOpaque())
  }

  /// The object behind the handle, which goes on holding it.
  func object<T: AnyObject>(_ type: T.Type) -> T {
    Unmanaged<T>.fromOpaque(UnsafeRawPointer(self)).takeUnretainedValue()
  }

  /// The object behind the handle, which is no handle any more.
  func release<T: AnyObject>(_ type: T.Type) -> T {
    Unmanaged<T>.fromOpaque(UnsafeRawPointer(self)).takeRetainedValue()
  }
}
