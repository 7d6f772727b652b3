// The functions are implemented in Swift, in KcopydABI. This file is here because a package has no
// C target without a source; it also sees to it that the header compiles as C on its own.
#include "kcopyd.h"
