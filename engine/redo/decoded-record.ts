/**
 * R9. A WAL record in WebAssembly memory, as PostgreSQL's XLogReader would have decoded it: what rm_redo reads.
 *
 * Called by the redo driver for every record. The target's relation is replaced by `scratch`, every other one by `junk` (redo-files.ts). Main data and
 * the data of each block are copied to 8-byte boundaries, as redo functions expect. Hot: some forty stores, no allocation.
 */
import { assert } from '../assert.ts';
import { pageSize, walRecordBlocksMax } from '../limits.ts';
import type { BlockReference, WalRecord } from '../wal/wal-record.ts';
import { junkRel, type RedoFiles, redoDatabase, scratchRel } from './redo-files.ts';
import type { RedoInstance } from './redo-instance.ts';
import { decodedBlock, decodedRecord, readerState } from './rmgr-abi.ts';

const redoTablespace = 1663;
const dataAreaBytes = 256 * 1024;

export class DecodedRecord {
  /** Address of the XLogReaderState that redo functions are called with. */
  readonly state: number;

  readonly #instance: RedoInstance;
  readonly #files: RedoFiles;
  readonly #malloc: (bytes: number) => number;
  readonly #decoded: number;
  #data: number;
  #dataBytes = dataAreaBytes;
  readonly #junkImage: number;

  constructor(instance: RedoInstance, files: RedoFiles) {
    this.#instance = instance;
    this.#files = files;
    this.#malloc = instance.function('malloc');
    this.state = this.#malloc(readerState.bytes);
    const decodedBytes = decodedRecord.blocks + walRecordBlocksMax * decodedBlock.bytes;
    this.#decoded = this.#malloc(decodedBytes);
    this.#data = this.#malloc(this.#dataBytes);
    this.#junkImage = this.#malloc(64);
    const { HEAPU8 } = instance.module;
    HEAPU8.fill(0, this.state, this.state + readerState.bytes);
    HEAPU8.fill(0, this.#decoded, this.#decoded + decodedBytes);
    HEAPU8.fill(0, this.#junkImage, this.#junkImage + 64);
    instance.setWord(this.state + readerState.record, this.#decoded);
    // What a junk page is restored to where a record brings an image of it: the header of an empty page, all else is the hole.
    HEAPU8[this.#junkImage + 12] = 24;
    HEAPU8[this.#junkImage + 15] = pageSize >> 8;
    HEAPU8[this.#junkImage + 17] = pageSize >> 8;
    HEAPU8[this.#junkImage + 18] = 4;
    HEAPU8[this.#junkImage + 19] = pageSize >> 8;
  }

  /** Writes the DecodedXLogRecord. Returns true if redo will initialise or restore a junk page, which must then be dropped. */
  write(record: WalRecord, target: BlockReference | null): boolean {
    const { bytes } = record;
    if (record.totalLength + 8 * (walRecordBlocksMax + 2) > this.#dataBytes) this.#growData(record.totalLength);
    const memory = this.#instance.module.HEAPU8;
    const words = this.#instance.words;
    const decoded = this.#decoded >> 2;
    const state = this.state >> 2;
    const low = record.endLsn % 4294967296;
    const high = (record.endLsn - low) / 4294967296;
    words[state + (readerState.readRecPtr >> 2)] = low;
    words[state + (readerState.readRecPtr >> 2) + 1] = high;
    words[state + (readerState.endRecPtr >> 2)] = low;
    words[state + (readerState.endRecPtr >> 2) + 1] = high;
    words[decoded + (decodedRecord.lsn >> 2)] = low;
    words[decoded + (decodedRecord.lsn >> 2) + 1] = high;
    words[decoded + (decodedRecord.nextLsn >> 2)] = low;
    words[decoded + (decodedRecord.nextLsn >> 2) + 1] = high;
    copy(memory, this.#decoded + decodedRecord.header, bytes, 0, 24);
    words[decoded + (decodedRecord.origin >> 2)] = record.origin;
    words[decoded + (decodedRecord.topLevelXid >> 2)] = record.topLevelXid;
    let at = this.#data;
    copy(memory, at, bytes, record.mainOffset, record.mainLength);
    words[decoded + (decodedRecord.mainData >> 2)] = record.mainLength > 0 ? at : 0;
    words[decoded + (decodedRecord.mainDataLength >> 2)] = record.mainLength;
    at = (at + record.mainLength + 7) & ~7;

    const count = record.blockCount;
    const maxId = count === 0 ? -1 : record.blocks[count - 1]!.id;
    words[decoded + (decodedRecord.maxBlockId >> 2)] = maxId;
    if (maxId + 1 !== count) {
      for (let id = 0; id <= maxId; id++) memory[this.#decoded + decodedRecord.blocks + id * decodedBlock.bytes] = 0;
    }
    let dirtiesJunk = false;
    for (let i = 0; i < count; i++) {
      const block = record.blocks[i]!;
      const isTarget = block === target;
      if (!isTarget) this.#files.reach(block.block);
      const entry = (this.#decoded + decodedRecord.blocks + block.id * decodedBlock.bytes) >> 2;
      words[entry] = 1;
      words[entry + 1] = redoTablespace;
      words[entry + 2] = redoDatabase;
      words[entry + 3] = isTarget ? scratchRel : junkRel;
      words[entry + 4] = block.fork;
      words[entry + 5] = block.block;
      words[entry + 6] = 0;
      const restore = !isTarget && block.applyImage;
      if (restore) {
        words[entry + 7] = block.flags | 0x010100;
        words[entry + 8] = this.#junkImage;
        words[entry + 9] = 24 | ((pageSize - 24) << 16);
        words[entry + 10] = 24 | (0x03 << 16) | (block.hasData ? 1 << 24 : 0);
      } else {
        words[entry + 7] = block.flags;
        words[entry + 8] = 0;
        words[entry + 9] = 0;
        words[entry + 10] = block.hasData ? 1 << 24 : 0;
      }
      if (!isTarget && (restore || block.willInit)) dirtiesJunk = true;
      if (block.hasData) {
        copy(memory, at, bytes, block.dataOffset, block.dataLength);
        words[entry + 11] = at;
        at = (at + block.dataLength + 7) & ~7;
      } else {
        words[entry + 11] = 0;
      }
      words[entry + 12] = block.dataLength | (block.dataLength << 16);
    }
    return dirtiesJunk;
  }

  #growData(recordBytes: number): void {
    this.#dataBytes = recordBytes * 2 + dataAreaBytes;
    // The old area is not freed: each is at least twice as large as the one before, up to `redoRecordBytesMax`.
    this.#data = this.#malloc(this.#dataBytes);
    assert(this.#data !== 0, 'the redo instance has no memory left');
  }
}

/** `set(subarray)` makes an object and a call; records are short. */
function copy(to: Uint8Array, at: number, from: Uint8Array, start: number, length: number): void {
  if (length > 256) {
    to.set(from.subarray(start, start + length), at);
    return;
  }
  for (let i = 0; i < length; i++) to[at + i] = from[start + i]!;
}
