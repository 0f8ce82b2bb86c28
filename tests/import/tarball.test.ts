/**
 * Tarballs as they come from strangers and from lines that break.
 *
 * Must hold: an archive cut anywhere or with any bit changed is refused, or gives exactly the files that it was made of (a bit of gzip's own header may
 * not matter); nothing is written outside of the folder; what is no regular file or folder is refused with its name. Random places come from a printed seed.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { packTar, type TarHeader } from 'modern-tar';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { extractTarball } from '../../server/import/extract-tarball.ts';
import { SeededRandom } from '../support/seeded-random.ts';

const seed = Number(process.env.PAGELITE_SEED ?? Math.floor(Math.random() * 2 ** 31));

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'pagelite-tar-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

type Part = TarHeader & { readonly data?: Uint8Array };
const encoder = new TextEncoder();
const file = (name: string, text: string): Part => {
  const data = encoder.encode(text);
  return { name, size: data.length, type: 'file', data };
};
const other = (name: string, type: NonNullable<TarHeader['type']>, linkname = ''): Part => {
  return { name, size: 0, type, linkname };
};
const archive = (...parts: Part[]): Promise<Uint8Array> =>
  packTar(parts.map(({ data, ...header }) => ({ header, ...(data && { data: new Uint8Array(data) }) })));

const good = [
  other('base', 'directory'),
  other('base/5', 'directory'),
  file('PG_VERSION', '18\n'),
  file('base/5/1259', 'x'.repeat(3000)),
  file('base/5/1260', ''),
  file('pg_wal/000000010000000000000001', 'y'.repeat(512)),
];

/** Into a folder of its own; what is in it then. */
async function extract(bytes: Uint8Array, name = 'backup.tar'): Promise<Record<string, string>> {
  const dir = mkdtempSync(join(root, 'out-'));
  writeFileSync(join(root, name), bytes);
  await extractTarball({ source: join(root, name), name, dir });
  return contentsOf(dir);
}

function contentsOf(dir: string): Record<string, string> {
  const paths = (readdirSync(dir, { recursive: true }) as string[]).filter((path) =>
    statSync(join(dir, path)).isFile(),
  );
  return Object.fromEntries(paths.sort().map((path) => [path, readFileSync(join(dir, path), 'utf8')]));
}

const expected = {
  PG_VERSION: '18\n',
  'base/5/1259': 'x'.repeat(3000),
  'base/5/1260': '',
  'pg_wal/000000010000000000000001': 'y'.repeat(512),
};

describe('whole ones', () => {
  it('are unpacked, compressed or not, whatever the name says', async () => {
    const tar = await archive(...good);
    expect(await extract(tar)).toEqual(expected);
    expect(await extract(gzipSync(tar), 'backup.bin')).toEqual(expected);
  });

  it('with a leading slash, as PGlite makes them, or ./ are of the same root', async () => {
    const moved = (prefix: string) => archive(...good.map((part) => ({ ...part, name: prefix + part.name })));
    expect(await extract(await moved('/'))).toEqual(expected);
    expect(await extract(await moved('./'))).toEqual(expected);
  });

  it('come from a stream in pieces of any size', async () => {
    const tar = gzipSync(await archive(...good));
    const dir = mkdtempSync(join(root, 'out-'));
    const pieces = Array.from({ length: tar.length }, (_, i) => tar.subarray(i, i + 1));
    await extractTarball({ source: Readable.from(pieces), name: 'standard input', dir });
    expect(contentsOf(dir)).toEqual(expected);
  });
});

describe('damaged ones', () => {
  it('cut at any place are refused', async () => {
    const tar = await archive(...good);
    for (let end = 0; end < tar.length - 512; end += 512) {
      await expect(extract(tar.subarray(0, end)), `cut at ${end}`).rejects.toMatchObject({
        message: expect.stringMatching(/backup\.tar is (cut short|empty)/),
      });
    }
    const packed = gzipSync(tar);
    for (let end = 1; end < packed.length; end += 7) {
      await expect(extract(packed.subarray(0, end)), `cut at ${end}`).rejects.toMatchObject({ kind: 'corrupt' });
    }
  });

  it('with any bit of the compressed bytes changed are refused, or as they were', async () => {
    const random = new SeededRandom(seed);
    const packed = gzipSync(await archive(...good));
    for (let i = 0; i < 300; i++) {
      const at = Math.floor(random.next() * packed.length);
      const bit = Math.floor(random.next() * 8);
      const changed = new Uint8Array(packed);
      changed[at]! ^= 1 << bit;
      const what = `seed ${seed}, byte ${at}, bit ${bit}`;
      const outcome = await extract(changed).catch((error: unknown) => error);
      if (outcome instanceof Error)
        expect(outcome, what).toMatchObject({ kind: expect.stringMatching(/corrupt|invalid/) });
      else expect(outcome, what).toEqual(expected);
    }
  });

  it('with a damaged header are refused', async () => {
    const tar = await archive(...good);
    for (const at of [0, 130, 156, 257]) {
      const changed = tar.slice();
      changed[at]! ^= 0x01;
      await expect(extract(changed), `byte ${at}`).rejects.toMatchObject({ kind: 'corrupt' });
    }
  });

  it('that are no archives are refused', async () => {
    await expect(extract(new Uint8Array(0))).rejects.toThrow(/backup\.tar is empty/);
    await expect(extract(encoder.encode('create table t (i int);\n'.repeat(100)))).rejects.toThrow(/no tar archive/);
    await expect(extract(gzipSync('a dump'.repeat(1000)))).rejects.toThrow(/no tar archive/);
  });
});

describe('hostile ones', () => {
  const cases: [what: string, part: Part, message: RegExp][] = [
    ['a path that leads out', file('../escaped', 'x'), /"\.\.\/escaped", which leads elsewhere/],
    ['one that leads out from further in', file('base/../../escaped', 'x'), /which leads elsewhere/],
    ['an absolute one that leads out', file('/../escaped', 'x'), /which leads elsewhere/],
    ['a folder that leads out', other('../escaped', 'directory'), /which leads elsewhere/],
    ['a symbolic link', other('pg_wal2', 'symlink', '/etc'), /pg_wal2 of backup\.tar is a symlink/],
    ['a tablespace', other('pg_tblspc/16400', 'symlink', '/srv'), /16400 .* symlink.*tablespaces are not supported/],
    ['a hard link', other('linked', 'link', '/etc/passwd'), /linked of backup\.tar is a link/],
    ['a device', other('zero', 'character-device'), /zero of backup\.tar is a character-device/],
    ['a pipe', other('pipe', 'fifo'), /pipe of backup\.tar is a fifo/],
    ['a file twice', file('PG_VERSION', '17\n'), /has PG_VERSION twice/],
  ];
  for (const [what, part, message] of cases) {
    it(`${what} is refused`, async () => {
      const before = readdirSync(join(root, '..')).includes('escaped');
      await expect(extract(await archive(...good, part))).rejects.toThrow(message);
      expect(readdirSync(root)).not.toContain('escaped');
      expect(readdirSync(join(root, '..')).includes('escaped')).toBe(before);
    });
  }

  it('a file under a file is refused', async () => {
    await expect(extract(await archive(...good, file('PG_VERSION/inside', 'x')))).rejects.toThrow();
  });

  it('Ctrl-C ends it', async () => {
    const stop = new AbortController();
    const reason = new Error('stopped');
    const dir = join(root, 'out');
    mkdirSync(dir);
    const never = new Readable({ read: () => {} });
    never.push((await archive(...good)).subarray(0, 1024));
    const extracting = extractTarball({ source: never, name: 'standard input', dir, signal: stop.signal });
    stop.abort(reason);
    await expect(extracting).rejects.toBe(reason);
  });
});
