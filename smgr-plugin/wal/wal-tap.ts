/**
 * W1. PostgreSQL's pg_wal: what it writes there is streamed at once, and `fsync` is the commit.
 *
 * Called by the file system for files of pg_wal that are named as segments. Bytes go into the bridge's ring while the transaction still
 * runs; `sync` blocks until the quorum has them. The last page of a flush is partial and written again by the next: every byte is sent once.
 *
 * Invariants
 * - the stream begins at the boot LSN and has no gaps: `sentEnd` only goes up, and never past valid WAL
 * - `sync` returns only when every record written before it is committed; otherwise it throws, and PostgreSQL panics
 * - only the newest segments are held in memory; an older one is read again from a safekeeper if PostgreSQL wants it (prepared transactions)
 */
import { assert } from '../../engine/assert.ts';
import type { WalPiece } from '../../engine/basebackup/control-data.ts';
import { walSegmentSize } from '../../engine/limits.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { ComputeBridge } from '../bridge/compute-bridge.ts';
import { LocalFile } from '../vfs/local-file.ts';
import { RecordEnds } from './record-ends.ts';

/** The segment being written and the one before: PostgreSQL reads back only what prepared transactions wrote. */
const segmentsKept = 2;

interface Segment {
  readonly startLsn: number;
  readonly file: LocalFile;
  /** Its bytes were given up. */
  dropped: boolean;
  /** A place at or before the segment's start where a record ends: a safekeeper reads from there. */
  boundary: number;
}

export interface WalTapOptions {
  readonly bridge: Pick<ComputeBridge, 'pushWal' | 'flushWal' | 'readWal'>;
  readonly startLsn: Lsn;
  readonly bootWal: readonly WalPiece[];
  /** A read-only compute's WAL goes nowhere. */
  readonly discard: boolean;
  /** All records up to here are committed: so many since boot, the record that the compute booted from not counted. */
  readonly onFlushed: (lsn: number, records: number) => void;
}

export class WalTap {
  readonly #options: WalTapOptions;
  readonly #ends: RecordEnds;
  readonly #segments = new Map<number, Segment>();
  #writtenEnd = 0;
  #sentEnd: number;
  #position = 0;
  #flushedEnd: number;
  /** WAL written by PostgreSQL itself; before that there is only the boot record, which nobody needs. */
  #hasWritten = false;

  constructor(options: WalTapOptions) {
    this.#options = options;
    this.#ends = new RecordEnds(options.startLsn);
    this.#sentEnd = options.startLsn;
    this.#flushedEnd = options.startLsn;
    for (const { lsn, bytes } of options.bootWal) {
      this.segment(lsn).write(lsn % walSegmentSize, bytes, 0, bytes.length);
      this.#writtenEnd = Math.max(this.#writtenEnd, lsn + bytes.length);
    }
    this.#ends.advance(this.#writtenEnd, this.#readWord);
    this.#ends.count = 0;
  }

  /** End of the WAL that PostgreSQL has written. */
  get endLsn(): number {
    return this.#ends.recordEnd;
  }

  /** Memory that WAL takes here. */
  get bytesInMemory(): number {
    let bytes = 0;
    for (const { file } of this.#segments.values()) bytes += file.bytesInMemory;
    return bytes;
  }

  /** First LSNs of the segments that exist at boot. */
  get bootSegments(): readonly number[] {
    return [...this.#segments.keys()];
  }

  /** The file of the segment at `startLsn`. A file that was written under another name (PostgreSQL makes new ones so) is given along. */
  segment(startLsn: number, file?: LocalFile): LocalFile {
    const start = startLsn - (startLsn % walSegmentSize);
    let segment = this.#segments.get(start);
    if (segment === undefined || file !== undefined) {
      segment = { startLsn: start, file: file ?? new LocalFile(), dropped: false, boundary: this.#ends.recordEnd };
      if (file === undefined) segment.file.truncate(walSegmentSize);
      this.#segments.set(start, segment);
    }
    return segment.file;
  }

  remove(startLsn: number): void {
    this.#segments.delete(startLsn);
  }

  read(startLsn: number, position: number, target: Uint8Array, offset: number, length: number): number {
    const segment = this.#segments.get(startLsn);
    if (segment === undefined) return 0;
    if (segment.dropped) this.#readAgain(segment);
    return segment.file.read(position, target, offset, length);
  }

  write(startLsn: number, position: number, source: Uint8Array, offset: number, length: number): void {
    this.segment(startLsn).write(position, source, offset, length);
    const end = startLsn + position + length;
    if (end > this.#writtenEnd) this.#writtenEnd = end;
    this.#hasWritten = true;
    this.#ends.advance(this.#writtenEnd, this.#readWord);
    this.#send();
    if (this.#segments.size > segmentsKept) this.#dropOld(startLsn);
  }

  /** Blocks until what was written is committed. Throws why it never will be. */
  sync(): void {
    if (!this.#hasWritten || this.#flushedEnd === this.#sentEnd) return;
    if (!this.#options.discard) this.#options.bridge.flushWal(this.#position);
    this.#flushedEnd = this.#sentEnd;
    this.#options.onFlushed(this.#ends.recordEnd, this.#ends.count);
  }

  readonly #readWord = (lsn: number): number => {
    const segment = this.#segments.get(lsn - (lsn % walSegmentSize));
    assert(segment !== undefined && !segment.dropped, 'WAL is looked at that is not here');
    return segment.file.readUint32(lsn % walSegmentSize);
  };

  #send(): void {
    const { bridge, discard } = this.#options;
    const end = this.#ends.validEnd;
    while (this.#sentEnd < end) {
      const start = this.#sentEnd - (this.#sentEnd % walSegmentSize);
      const to = Math.min(end, start + walSegmentSize);
      const { file } = this.#segments.get(start)!;
      if (!discard) {
        file.forEachPiece(this.#sentEnd - start, to - start, (bytes, from, until) => {
          this.#position = bridge.pushWal(bytes, from, until);
        });
      }
      this.#sentEnd = to;
    }
  }

  #dropOld(writing: number): void {
    for (const segment of this.#segments.values()) {
      if (segment.dropped || segment.startLsn > writing - segmentsKept * walSegmentSize) continue;
      segment.file.forgetBytes();
      segment.dropped = true;
    }
  }

  /** What lies before the boot LSN in its segment is on no safekeeper: the segment's header, and that of the page. */
  #writeBootHeaders({ startLsn, file }: Segment): void {
    for (const { lsn, bytes } of this.#options.bootWal) {
      const length = Math.min(bytes.length, this.#options.startLsn - lsn);
      if (lsn >= startLsn && lsn < startLsn + walSegmentSize && length > 0) {
        file.write(lsn - startLsn, bytes, 0, length);
      }
    }
  }

  #readAgain(segment: Segment): void {
    const bytes = this.#options.bridge.readWal(segment.boundary, segment.startLsn, walSegmentSize);
    segment.file.write(0, bytes, 0, bytes.length);
    this.#writeBootHeaders(segment);
    // Kept until the next segment is begun.
    segment.dropped = false;
  }
}
