package daemon

import "golang.org/x/sys/windows"

// diskSpace returns how many bytes of the file system at dir are free for this user, and its size; ok
// is false if the system does not tell.
func diskSpace(dir string) (free, size uint64, ok bool) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, false
	}
	err = windows.GetDiskFreeSpaceEx(name, &free, &size, nil)
	return free, size, err == nil
}
