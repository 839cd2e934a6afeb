// Standard input, output and error of a program that was started with some of them closed.
#pragma once

namespace godwit {

// To be called first in main(). A closed descriptor 0, 1 or 2 would be given to the next file or
// socket that is opened, and what is said on standard error would go there: into the control
// connection, for one. Reading from what is put there instead gives nothing, writing to it fails
// (EBADF). What can't be opened is left closed.
void keep_standard_fds();

}  // namespace godwit
