/**
 * Where things lie in the memory of PGlite's WebAssembly module (wasm32, PostgreSQL 18): the structs that rm_redo reads and the buffers it
 * changes. Checked when an instance starts (`postgres-redo.ts`, `selfCheck`), so that another build fails loudly.
 *
 * Sources: src/include/access/xlogreader.h, xlog_internal.h (RmgrData), src/include/storage/buf_internals.h.
 */

/** RmgrTable: array of RmgrData, eight pointers each; functions are indexes into the module's indirect function table. */
export const rmgrData = { bytes: 32, redo: 4, startup: 16, mask: 24 } as const;
export const rmgrCount = 22;

export const readerState = { bytes: 512, readRecPtr: 32, endRecPtr: 40, record: 96 } as const;

export const decodedRecord = {
  lsn: 16,
  nextLsn: 24,
  header: 32,
  origin: 56,
  topLevelXid: 60,
  mainData: 64,
  mainDataLength: 68,
  maxBlockId: 72,
  blocks: 76,
} as const;

export const decodedBlock = {
  bytes: 52,
  inUse: 0,
  spc: 4,
  db: 8,
  rel: 12,
  fork: 16,
  block: 20,
  prefetchBuffer: 24,
  /** flags u8, has_image u8, apply_image u8: written as one word. */
  flags: 28,
  image: 32,
  /** hole_offset u16, hole_length u16 */
  hole: 36,
  /** bimg_len u16, bimg_info u8, has_data u8 */
  imageLength: 40,
  data: 44,
  /** data_len u16, data_bufsz u16 */
  dataLength: 48,
} as const;

/** BufferDesc, padded to a cache line. */
export const bufferDesc = { bytes: 64, spc: 0, db: 4, rel: 8, fork: 12, block: 16, id: 20, state: 24 } as const;
export const bufferState = {
  refcountMask: 0x3ffff,
  dirty: 1 << 23,
  valid: 1 << 24,
  tagValid: 1 << 25,
  justDirtied: 1 << 28,
  checkpointNeeded: 1 << 30,
} as const;

export const memoryContext = { firstChild: 20, nextChild: 28, name: 32 } as const;
