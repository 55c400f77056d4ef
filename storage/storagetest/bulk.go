package storagetest

// bulkTests take many bytes or objects. The race detector follows each byte, which takes minutes, and none of them has
// concurrent writers: they run without it.
func bulkTests() []contract {
	if RaceDetector {
		return nil
	}
	return []contract{
		{"what was created is read back, at every size", createReadsBack},
		{"20 MB is read back", createLarge},
		{"what was written is stored, at every size", draftStores},
		{"more than one page is listed completely", listLong},
		{"sees what existed during the whole call, and may write meanwhile", listWhileWriting},
		{"a state of 16 MiB is kept, a larger one refused", stateLarge},
	}
}
