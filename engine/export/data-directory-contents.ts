/**
 * A timeline at an LSN as the data directory of a server that was shut down there: what plain PGlite opens without recovery.
 *
 *   basebackup (pg_control shut down at the LSN, SLRUs, relation maps, configuration) | WAL: the shutdown checkpoint's record | relations
 *
 * Called by the command line and the library (server/export/), which pack it. Pages come through the PageService seam, several requests under way
 * at a time, so memory does not depend on the database's size.
 *
 * Invariants:
 * - everything is as of one LSN: transactions that had not committed there have no commit record and read as aborted
 * - unlogged relations are their init forks: a server that was shut down in order does not make them anew, so their main forks are written here
 * - free space maps are left out: they are not logged, so what a timeline has of them is old; VACUUM makes them, and an insert does without
 */

import { must } from '../assert.ts';
import { bootWal, type WalPiece } from '../basebackup/control-data.ts';
import { controlPath, relationPath } from '../basebackup/data-directory-paths.ts';
import { PageliteError } from '../errors.ts';
import { copyRequestsMax, pageSize, pagesPerRequestMax, relSegmentBlocks, walSegmentSize } from '../limits.ts';
import { formatLsn, type Lsn } from '../model/lsn.ts';
import { fsmFork, initFork, mainFork, type RelTag } from '../model/rel.ts';
import type { Basebackup, DataFile, PageService } from '../services.ts';
import { segmentFileName, segmentStart } from '../wal/wal-page.ts';

/** A folder, or a file whose bytes come in pieces; exactly `size` of them. Files are read in order, one at a time. */
export type DirectoryEntry =
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'file'; readonly path: string; readonly size: number; readonly bytes: AsyncIterable<Uint8Array> };

export interface DataDirectoryContents {
  readonly lsn: Lsn;
  /** Of all files. */
  readonly bytes: number;
  readonly unloggedRelations: number;
  readonly entries: Iterable<DirectoryEntry>;
}

/** Blocks of a relation that are one file; `source` is the fork that they are read from. */
interface RelationFile {
  readonly path: string;
  readonly source: RelTag;
  readonly first: number;
  readonly blocks: number;
}

/** Rejects as the PageService does: `invalid` for an LSN that the timeline does not have. */
export async function dataDirectoryContents(
  pages: PageService,
  lsn: Lsn,
  signal?: AbortSignal,
): Promise<DataDirectoryContents> {
  const basebackup = await pages.getBasebackup(lsn, signal);
  if (basebackup.lsn !== lsn) {
    const message = `asked for ${formatLsn(lsn)}, the pageserver has made a basebackup at ${formatLsn(basebackup.lsn)}`;
    throw new PageliteError('corrupt', message, { ...pages.id });
  }
  const small = [...withPreparedSlots(basebackup.files), ...walFiles(basebackup)];
  const { files, unloggedRelations } = relationFiles(basebackup);
  const bytes =
    small.reduce((sum, file) => sum + (file.bytes?.length ?? 0), 0) +
    files.reduce((sum, { blocks }) => sum + blocks * pageSize, 0);
  return { lsn, bytes, unloggedRelations, entries: entriesOf(pages, lsn, small, files, signal) };
}

function* entriesOf(
  pages: PageService,
  lsn: Lsn,
  small: readonly DataFile[],
  files: readonly RelationFile[],
  signal: AbortSignal | undefined,
): Generator<DirectoryEntry> {
  for (const { path, bytes } of small) if (bytes === null) yield { kind: 'folder', path };
  for (const { path, bytes } of small) {
    if (bytes !== null) yield { kind: 'file', path, size: bytes.length, bytes: onePiece(bytes) };
  }
  const requests = new ReadAhead(pages, lsn, files, signal);
  for (const { path, blocks } of files) {
    yield { kind: 'file', path, size: blocks * pageSize, bytes: requests.next(blocks) };
  }
}

async function* onePiece(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  if (bytes.length > 0) yield bytes;
}

/** Pages of all files in order, asked for before they are wanted. */
class ReadAhead {
  readonly #asked: Promise<Uint8Array>[] = [];
  readonly #requests: Iterator<Promise<Uint8Array>>;

  constructor(pages: PageService, lsn: Lsn, files: readonly RelationFile[], signal: AbortSignal | undefined) {
    this.#requests = requestsOf(pages, lsn, files, signal);
  }

  /** The next file. No request spans two. */
  async *next(blocks: number): AsyncGenerator<Uint8Array> {
    for (let done = 0; done < blocks; ) {
      while (this.#asked.length < copyRequestsMax) {
        const { value, done: isEnd } = this.#requests.next();
        if (isEnd) break;
        // Whoever takes it hears of a failure; an earlier one may fail first.
        value.catch(() => {});
        this.#asked.push(value);
      }
      const bytes = await must(this.#asked.shift());
      done += bytes.length / pageSize;
      yield bytes;
    }
  }
}

function* requestsOf(
  pages: PageService,
  lsn: Lsn,
  files: readonly RelationFile[],
  signal: AbortSignal | undefined,
): Generator<Promise<Uint8Array>, undefined> {
  const at = { requestLsn: lsn, notModifiedSince: lsn };
  for (const { source, first, blocks } of files) {
    for (let done = 0; done < blocks; done += pagesPerRequestMax) {
      yield pages.getPages(at, source, first + done, Math.min(pagesPerRequestMax, blocks - done), signal);
    }
  }
  return undefined;
}

/** The sizes of all forks are in the basebackup. */
function relationFiles({ prewarm }: Basebackup): { files: RelationFile[]; unloggedRelations: number } {
  const unlogged = new Set(prewarm.filter(({ rel }) => rel.fork === initFork).map(({ rel }) => relationKey(rel)));
  const files: RelationFile[] = [];
  for (const { rel, relSize } of prewarm) {
    const isContents = rel.fork !== initFork && unlogged.has(relationKey(rel));
    if (rel.fork === fsmFork || isContents) continue;
    files.push(...segmentsOf(rel, rel, relSize));
    if (rel.fork === initFork) files.push(...segmentsOf({ ...rel, fork: mainFork }, rel, relSize));
  }
  return { files, unloggedRelations: unlogged.size };
}

const relationKey = ({ db, rel }: RelTag): string => `${db}/${rel}`;

/** A relation of no blocks is an empty file. */
function* segmentsOf(rel: RelTag, source: RelTag, blocks: number): Generator<RelationFile> {
  for (let segment = 0; segment === 0 || segment * relSegmentBlocks < blocks; segment++) {
    const first = segment * relSegmentBlocks;
    yield { path: relationPath(rel, segment), source, first, blocks: Math.min(relSegmentBlocks, blocks - first) };
  }
}

/** Whole segments: PostgreSQL reads WAL in files of their full size. */
function walFiles({ files, lsn, prevLsn }: Basebackup): DataFile[] {
  const control = must(files.find(({ path }) => path === controlPath)?.bytes);
  const segments = new Map<Lsn, WalPiece[]>();
  for (const piece of bootWal(control, lsn, prevLsn)) {
    const start = segmentStart(piece.lsn);
    segments.set(start, [...(segments.get(start) ?? []), piece]);
  }
  return [...segments].map(([start, pieces]) => {
    const bytes = new Uint8Array(walSegmentSize);
    for (const piece of pieces) bytes.set(piece.bytes, piece.lsn - start);
    return { path: `pg_wal/${segmentFileName(start)}`, bytes };
  });
}

/** A server that has prepared transactions does not start without room for them, and PGlite's default is none. */
function withPreparedSlots(files: readonly DataFile[]): readonly DataFile[] {
  const prepared = files.filter(({ path, bytes }) => path.startsWith('pg_twophase/') && bytes !== null).length;
  if (prepared === 0) return files;
  const setting = new TextEncoder().encode(`\nmax_prepared_transactions = ${Math.max(64, prepared)}\n`);
  const path = 'postgresql.auto.conf';
  const before = files.find((file) => file.path === path)?.bytes ?? new Uint8Array(0);
  const bytes = new Uint8Array(before.length + setting.length);
  bytes.set(before);
  bytes.set(setting, before.length);
  return [...files.filter((file) => file.path !== path), { path, bytes }];
}
