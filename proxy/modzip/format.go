package modzip

// Signatures and fixed lengths (APPNOTE.TXT, section 4.3).
const (
	fileSignature       = 0x04034b50
	descriptorSignature = 0x08074b50
	entrySignature      = 0x02014b50
	endSignature        = 0x06054b50
	end64Signature      = 0x06064b50
	locatorSignature    = 0x07064b50

	fileLen       = 30
	descriptorLen = 16
	entryLen      = 46
	endLen        = 22
	end64Len      = 56
	locatorLen    = 20

	// hasDescriptor is the flag of an entry whose sizes stand behind its content.
	hasDescriptor = 1 << 3
)
