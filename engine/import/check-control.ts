/**
 * Whether a data directory can become a timeline, by its pg_control: made by the PostgreSQL that Pagelite has, and shut down.
 *
 * Everything that `pg_control` says of how the server was built must be as in this build, since it is how pages and catalogs are laid out. The
 * usual stranger is a directory of a native PostgreSQL: 64 bits, where float8 and int8 are passed by value.
 *
 *   system identifier u64 0 | version 8 | catalog 12 | state 16 | checkPoint 32 | checkPointCopy (88) 40 | unloggedLSN 128 | minRecoveryPoint 136 |
 *   backup start and end 152 | max_prepared_xacts 192 | maxAlign 204 | floatFormat f64 208 | blcksz 216 | relseg_size 220 | xlog_blcksz 224 |
 *   xlog_seg_size 228 | nameDataLen 232 | indexMaxKeys 236 | toast_max_chunk_size 240 | loblksize 244 | float8ByVal 248 | data_checksum_version 252 |
 *   default_char_signedness 256 | crc 292          (src/include/catalog/pg_control.h of PostgreSQL 18, wasm32)
 */
import { checkpointOf, controlFileBytes, controlVersion } from '../basebackup/control-data.ts';
import { controlPath } from '../basebackup/data-directory-paths.ts';
import { crc32c } from '../crc32c.ts';
import { PageliteError } from '../errors.ts';
import { pageSize, relSegmentBlocks, walSegmentSize } from '../limits.ts';
import { formatLsn, type Lsn, readLsn } from '../model/lsn.ts';
import { recordEnd } from '../wal/wal-page.ts';

export const postgresMajor = 18;
/** CATALOG_VERSION_NO of PostgreSQL 18. */
const catalogVersion = 202506291;
const crcOffset = 292;
const checksumVersionOffset = 252;

/** DBState. */
const states = [
  'starting up',
  'shut down',
  'shut down in recovery',
  'shutting down',
  'in crash recovery',
  'in archive recovery',
  'in production',
];
const shutDown = 1;

interface BuildFact {
  readonly offset: number;
  readonly expected: number;
  readonly name: string;
}

/** pg_controldata's names. */
const buildFacts: readonly BuildFact[] = [
  { offset: 204, expected: 8, name: 'maximum data alignment' },
  { offset: 216, expected: pageSize, name: 'database block size' },
  { offset: 220, expected: relSegmentBlocks, name: 'blocks per segment of large relation' },
  { offset: 224, expected: pageSize, name: 'WAL block size' },
  { offset: 228, expected: walSegmentSize, name: 'bytes per WAL segment' },
  { offset: 232, expected: 64, name: 'maximum length of identifiers' },
  { offset: 236, expected: 32, name: 'maximum columns in an index' },
  { offset: 240, expected: 1996, name: 'maximum size of a TOAST chunk' },
  { offset: 244, expected: 2048, name: 'size of a large-object chunk' },
];

export interface DirectoryState {
  readonly systemIdentifier: bigint;
  /** Shut down in order: the files are all there is, and no WAL is needed. */
  readonly isClean: boolean;
  /** PostgreSQL's word for what it was doing. */
  readonly state: string;
  /** Of a clean one: the end of all WAL before the shutdown checkpoint's own record, which a compute writes anew. */
  readonly lsn: Lsn;
  readonly hasChecksums: boolean;
}

/** `name`: of the directory. Throws `invalid` (another PostgreSQL's) and `corrupt` (damaged). */
export function checkControl(control: Uint8Array, name: string): DirectoryState {
  const view = new DataView(control.buffer, control.byteOffset, control.byteLength);
  const file = `${controlPath} of ${name}`;
  if (control.length !== controlFileBytes) {
    throw new PageliteError('corrupt', `${file} has ${control.length} bytes instead of ${controlFileBytes}`, { file });
  }
  const version = view.getUint32(8, true);
  if (version !== controlVersion) {
    // Its fields and its CRC are elsewhere: what is told is the version, in the byte order that makes one.
    const swapped = view.getUint32(8, false);
    const told = swapped > 0 && swapped < 10_000 ? `${swapped}, big-endian` : String(version);
    throw foreign(
      file,
      `pg_control version ${told}; PostgreSQL ${postgresMajor}, which this PGlite is, has ${controlVersion}`,
    );
  }
  if (view.getUint32(crcOffset, true) !== crc32c(control, 0, crcOffset)) {
    throw new PageliteError('corrupt', `${file} fails its CRC: it is damaged, or was copied while it was written`, {
      file,
    });
  }
  if (view.getUint32(12, true) !== catalogVersion) {
    throw foreign(file, `catalog version ${view.getUint32(12, true)}, expected ${catalogVersion}`);
  }
  if (view.getUint8(248) !== 0) {
    throw foreign(file, 'made by a 64-bit PostgreSQL, and PGlite is a 32-bit one, which lays out values differently');
  }
  for (const { offset, expected, name: fact } of buildFacts) {
    const found = view.getUint32(offset, true);
    if (found !== expected) throw foreign(file, `${fact} is ${found}, expected ${expected}`);
  }
  if (view.getFloat64(208, true) !== 1234567) throw foreign(file, 'floating-point numbers of another format');
  const state = view.getUint32(16, true);
  const checkpointLsn = readLsn(view, 32);
  const redo = readLsn(view, 40);
  const isClean = state === shutDown;
  if (isClean && (redo !== checkpointLsn || checkpointLsn < walSegmentSize)) {
    const problem = `it says that it was shut down at ${formatLsn(checkpointLsn)}, and to begin at ${formatLsn(redo)}`;
    throw new PageliteError('corrupt', `${file} contradicts itself: ${problem}`, { file });
  }
  return {
    systemIdentifier: view.getBigUint64(0, true),
    isClean,
    state: states[state] ?? `in state ${state}`,
    lsn: recordEnd(checkpointLsn),
    hasChecksums: view.getUint32(checksumVersionOffset, true) !== 0,
  };
}

function foreign(file: string, problem: string): PageliteError {
  const wayOut = 'Use pg_dump and restore the dump instead';
  return new PageliteError('invalid', `${file}: ${problem}. ${wayOut}`, { file });
}

/**
 * As the branch keeps it: what is of a run or a backup of the old directory is cleared, and data checksums are off, since pages are written back here
 * without; every layer and every answer has a checksum of its own.
 */
export function controlForBranch(control: Uint8Array): Uint8Array {
  const copy = control.slice();
  const view = new DataView(copy.buffer);
  copy.fill(0, 128, 169);
  view.setUint32(checksumVersionOffset, 0, true);
  // track_commit_timestamp: their SLRU is not kept.
  copy[200] = 0;
  view.setUint32(crcOffset, crc32c(copy, 0, crcOffset), true);
  return copy;
}

/** The CheckPoint struct without the commit timestamps, which are not kept. */
export function checkpointForBranch(control: Uint8Array): Uint8Array {
  const checkpoint = checkpointOf(control);
  checkpoint.fill(0, 72, 80);
  return checkpoint;
}
