/**
 * Data directories that cannot become a branch, made from a good one by a change each: the engine and the host's part, without a server.
 *
 * Must hold: each is refused with an error that names the file and says what is wrong with it; nothing but that is wrong, so put right it is taken;
 * damage that PostgreSQL itself would repair is repaired. What is read is every page that is not of zeros, once.
 */

import { execFileSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PGlite } from '@electric-sql/pglite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { crc32c } from '../../engine/crc32c.ts';
import { pageChecksum } from '../../engine/import/check-page.ts';
import { type ImportedDirectory, importDataDirectory } from '../../engine/import/import-data-directory.ts';
import { parseLayerName } from '../../engine/layers/layer-name.ts';
import { pageSize } from '../../engine/limits.ts';
import { newTenantId, newTimelineId } from '../../engine/model/ids.ts';
import { compareKeys } from '../../engine/model/key.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { FolderDirectory } from '../../server/import/folder-directory.ts';
import { prepareDirectory } from '../../server/import/prepare-directory.ts';
import { nodeRandom } from '../../server/process/node-host.ts';

let root: string;
let good: string;
/** Of table t: its file, and its first index's. */
let table: string;
let freeSpaceMap: string;

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'pagelite-bad-'));
  good = join(root, 'good');
  const pg = await PGlite.create(good);
  await pg.exec("create table t as select g, repeat('x', 500) from generate_series(1, 3000) g");
  await pg.exec('vacuum t');
  const { rows } = await pg.query<{ path: string }>("select pg_relation_filepath('t') as path");
  table = rows[0]!.path;
  freeSpaceMap = `${table}_fsm`;
  await pg.close();
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

let copies = 0;
/** What comes of a copy of the good one after `change`. */
async function attempt(
  change: (dir: string) => void,
  layerBytesMax?: number,
): Promise<ImportedDirectory & { dir: string }> {
  const dir = join(root, `copy-${copies++}`);
  // A thousand files: ten times as fast as cpSync.
  execFileSync('cp', ['-a', good, dir]);
  try {
    change(dir);
    const prepared = await prepareDirectory({
      source: dir,
      copyDir: join(root, `prepared-${copies}`),
      progress: () => {},
    });
    const directory = new FolderDirectory(prepared.dir, prepared.name, prepared.found.files);
    const id = { tenantId: newTenantId(nodeRandom), timelineId: newTimelineId(nodeRandom) };
    try {
      const store = new MemoryObjectStore();
      const imported = await importDataDirectory({ directory, id, store, ...(layerBytesMax && { layerBytesMax }) });
      await prepared.checkUnchanged();
      return { ...imported, dir };
    } finally {
      await directory.close();
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function edit(file: string, change: (bytes: Buffer) => void): (dir: string) => void {
  return (dir) => {
    const bytes = readFileSync(join(dir, file));
    change(bytes);
    writeFileSync(join(dir, file), bytes);
  };
}

/** With a CRC that fits again. */
const control = (change: (bytes: Buffer) => void) =>
  edit('global/pg_control', (bytes) => {
    change(bytes);
    bytes.writeUInt32LE(crc32c(bytes, 0, 292), 292);
  });

/** Page 3 of the table, with a checksum that fits again. */
const page3 = (change: (page: Buffer) => void) =>
  edit(table, (bytes) => {
    change(bytes.subarray(3 * pageSize, 4 * pageSize));
    bytes.writeUInt16LE(pageChecksum(bytes, 3 * pageSize, 3), 3 * pageSize + 8);
  });

describe('a good one', () => {
  it('is taken, in one layer or in many that follow on each other', async () => {
    const whole = await attempt(() => {});
    expect(whole.part.layers).toHaveLength(1);
    expect(whole.droppedMapPages).toBe(0);
    const { part } = await attempt(() => {}, 2 * 1024 * 1024);
    expect(part.layers.length).toBeGreaterThan(10);
    const ranges = part.layers.map(({ name }) => parseLayerName(name)!.keys);
    for (const [i, { start }] of ranges.slice(1).entries()) {
      expect(compareKeys(ranges[i]!.end, start)).toBeLessThanOrEqual(0);
    }
    for (const { size } of part.layers) expect(size).toBeLessThan(4 * 1024 * 1024);
  });

  it('has PGlite’s checksums on every page', () => {
    const bytes = readFileSync(join(good, table));
    for (let block = 0; block < bytes.length / pageSize; block++) {
      expect(pageChecksum(bytes, block * pageSize, block)).toBe(bytes.readUInt16LE(block * pageSize + 8));
    }
  });
});

describe('refused', () => {
  const cases: [what: string, change: () => (dir: string) => void, message: RegExp][] = [
    [
      'without PG_VERSION',
      () => (dir) => rmSync(join(dir, 'PG_VERSION')),
      /not a PostgreSQL data directory: it has no PG_VERSION/,
    ],
    ['without pg_control', () => (dir) => rmSync(join(dir, 'global/pg_control')), /it has no global\/pg_control/],
    [
      'of another major version',
      () => (dir) => writeFileSync(join(dir, 'PG_VERSION'), '17\n'),
      /PG_VERSION .* "17": only PostgreSQL 18/,
    ],
    [
      'with a pg_control of another version',
      () => control((b) => b.writeUInt32LE(1300, 8)),
      /pg_control .*version 1300.*pg_dump/,
    ],
    ['of a big-endian machine', () => control((b) => b.writeUInt32BE(1800, 8)), /1800, big-endian/],
    ['of another catalog version', () => control((b) => b.writeUInt32LE(202406281, 12)), /catalog version 202406281/],
    ['of a 64-bit PostgreSQL', () => control((b) => b.writeUInt8(1, 248)), /64-bit PostgreSQL.*pg_dump/],
    [
      'with pages of another size',
      () => control((b) => b.writeUInt32LE(16384, 216)),
      /database block size is 16384, expected 8192/,
    ],
    [
      'with relation segments of another size',
      () => control((b) => b.writeUInt32LE(65536, 220)),
      /blocks per segment .* 65536/,
    ],
    [
      'with WAL segments of another size',
      () => control((b) => b.writeUInt32LE(67108864, 228)),
      /bytes per WAL segment is 67108864/,
    ],
    [
      'with a flipped bit in pg_control',
      () => edit('global/pg_control', (b) => b.writeUInt8(b[100]! ^ 4, 100)),
      /pg_control .*fails its CRC/,
    ],
    [
      'with a short pg_control',
      () => (dir) => writeFileSync(join(dir, 'global/pg_control'), Buffer.alloc(100)),
      /100 bytes instead of 8192/,
    ],
    ['with a pg_control that contradicts itself', () => control((b) => b.writeUInt32LE(24, 40)), /contradicts itself/],
    ['with half a page', () => edit(table, () => {}), /no whole number/],
    [
      'with a flipped bit in a page',
      () => edit(table, (b) => b.writeUInt8(b[3 * pageSize + 5000]! ^ 1, 3 * pageSize + 5000)),
      /page 3 of base\/5\/\d+ .*its checksum is/,
    ],
    [
      'with a page in the wrong place',
      () => edit(table, (b) => b.copy(b, 5 * pageSize, 3 * pageSize, 4 * pageSize)),
      /page 5 of .*its checksum is/,
    ],
    ['with a page from the future', () => page3((p) => p.writeUInt32LE(9, 0)), /page 3 of .*after the last checkpoint/],
    ['with a page header that is none', () => page3((p) => p.writeUInt16LE(9000, 14)), /page 3 of .*header is invalid/],
    [
      'with pages of another layout',
      () => page3((p) => p.writeUInt16LE(8192 | 3, 18)),
      /page 3 of .*page size and version/,
    ],
    [
      'with a damaged relation map',
      () => edit('base/5/pg_filenode.map', (b) => b.writeUInt8(b[20]! ^ 1, 20)),
      /base\/5\/pg_filenode\.map .*damaged/,
    ],
    [
      'without the relation map of all databases',
      () => (dir) => rmSync(join(dir, 'global/pg_filenode.map')),
      /global\/pg_filenode\.map is missing/,
    ],
    ['without transaction states', () => (dir) => rmSync(join(dir, 'pg_xact/0000')), /pg_xact\/ is missing/],
    [
      'with a damaged prepared transaction',
      () => (dir) => writeFileSync(join(dir, 'pg_twophase/00000000000002FF'), Buffer.alloc(300)),
      /pg_twophase\/00000000000002FF .*CRC/,
    ],
    [
      'with WAL elsewhere',
      () => (dir) => {
        rmSync(join(dir, 'pg_wal'), { recursive: true });
        symlinkSync(tmpdir(), join(dir, 'pg_wal'));
      },
      /pg_wal of .* is a symbolic link/,
    ],
    [
      'with a tablespace',
      () => (dir) => symlinkSync(tmpdir(), join(dir, 'pg_tblspc/16400')),
      /pg_tblspc\/16400 .*tablespaces are not supported/,
    ],
    [
      'with a tablespace in place',
      () => (dir) => mkdirSync(join(dir, 'pg_tblspc/16400')),
      /has a tablespace \(pg_tblspc\/16400\)/,
    ],
    [
      'with a pipe',
      () => (dir) => execFileSync('mkfifo', [join(dir, 'base/5/99999')]),
      /base\/5\/99999 .*no regular file/,
    ],
    ['of a standby', () => (dir) => writeFileSync(join(dir, 'standby.signal'), ''), /has a standby\.signal/],
    ['of a backup', () => (dir) => writeFileSync(join(dir, 'backup_label'), 'x'), /has a backup_label/],
  ];
  for (const [what, change, message] of cases) {
    it(`one ${what}`, async () => {
      const make =
        what === 'with half a page' ? (dir: string) => writeFileSync(join(dir, table), Buffer.alloc(8191)) : change();
      await expect(attempt(make)).rejects.toMatchObject({
        name: 'PageliteError',
        message: expect.stringMatching(message),
      });
    });
  }

  it('what is not there, and what is no data directory', async () => {
    const prepare = (source: string) =>
      prepareDirectory({ source, copyDir: join(root, `p-${copies++}`), progress: () => {} });
    await expect(prepare(join(root, 'nowhere'))).rejects.toThrow(/there is no .*nowhere/);
    await expect(prepare('/dev/null')).rejects.toThrow(/neither a folder nor a file/);
    mkdirSync(join(root, 'empty'));
    await expect(prepare(join(root, 'empty'))).rejects.toThrow(/not a PostgreSQL data directory/);
  });

  it('one that somebody writes to meanwhile', async () => {
    const dir = join(root, 'written');
    cpSync(good, dir, { recursive: true });
    const prepared = await prepareDirectory({ source: dir, copyDir: join(root, 'no-copy'), progress: () => {} });
    await prepared.checkUnchanged();
    // The same bytes again.
    edit(table, () => {})(dir);
    await expect(prepared.checkUnchanged()).rejects.toThrow(
      /is in use: base\/5\/\d+ was written meanwhile.*dumpDataDir/,
    );
  });

  it('one whose WAL is damaged and wanted', async () => {
    const dir = join(root, 'unclean');
    const pg = await PGlite.create(good);
    await pg.exec('create table more as select generate_series(1, 100) g');
    cpSync(good, dir, { recursive: true });
    await pg.close();
    const [segment] = readdirSync(join(dir, 'pg_wal')).filter((name) => /^[0-9A-F]{24}$/.test(name));
    // All of it: recovery finds no checkpoint to begin at.
    writeFileSync(join(dir, 'pg_wal', segment!), Buffer.alloc(statSync(join(dir, 'pg_wal', segment!)).size));
    const prepared = prepareDirectory({ source: dir, copyDir: join(root, 'unclean-copy'), progress: () => {} });
    await expect(prepared).rejects.toThrow(/PostgreSQL cannot recover .*unclean/);
  });
});

describe('repaired', () => {
  it('a damaged page of a free space map is left out', async () => {
    const imported = await attempt(edit(freeSpaceMap, (bytes) => bytes.writeUInt8(bytes[5000]! ^ 1, 5000)));
    expect(imported.droppedMapPages).toBe(1);
  });

  it('settings that would keep an endpoint from starting are left out, also for the recovery', async () => {
    const more = "shared_preload_libraries = 'auto_explain'\nwork_mem = '9MB'\n";
    const imported = await attempt((dir) => {
      writeFileSync(join(dir, 'postgresql.auto.conf'), more);
      // So that it is recovered.
      writeFileSync(join(dir, 'postmaster.pid'), '-42\n');
    });
    expect(imported.settingsLeftOut).toEqual(['shared_preload_libraries of postgresql.auto.conf']);
  });

  it('a database that was never finished is left out', async () => {
    const imported = await attempt((dir) => {
      mkdirSync(join(dir, 'base/77777'));
      writeFileSync(join(dir, 'base/77777/PG_VERSION'), '18\n');
      writeFileSync(join(dir, 'base/77777/1259'), Buffer.alloc(8192));
    });
    expect(imported.unfinishedDatabases).toEqual(['base/77777']);
  });
});
