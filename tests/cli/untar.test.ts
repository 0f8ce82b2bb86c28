/** Archives of PGlite's contrib modules are read as tar reads them; one that is cut short is an error that names it, not half a module. */
import { describe, expect, it } from 'vitest';
import { joinTars, untar } from '../../smgr-plugin/contrib-files.ts';

const encoder = new TextEncoder();

function entry(path: string, content: string, type = '0', prefix = ''): Uint8Array {
  const bytes = encoder.encode(content);
  const block = new Uint8Array(512 + Math.ceil(bytes.length / 512) * 512);
  block.set(encoder.encode(path), 0);
  block.set(encoder.encode(`${bytes.length.toString(8).padStart(11, '0')}\0`), 124);
  block.set(encoder.encode(type), 156);
  block.set(encoder.encode(prefix), 345);
  block.set(bytes, 512);
  return block;
}

function archive(...entries: Uint8Array[]): Uint8Array {
  return new Uint8Array([...entries, new Uint8Array(1024)].flatMap((bytes) => [...bytes]));
}

describe('untar', () => {
  it('gives regular files, whatever their size, and leaves out folders', () => {
    const files = untar(
      archive(
        entry('share/', '', '5'),
        entry('./share/a.sql', 'x'.repeat(512)),
        entry('empty', ''),
        entry('module.so', 'y'.repeat(513), '0', 'lib/postgresql'),
      ),
      'a.tar',
    );
    expect(files.map(({ path, bytes }) => [path, bytes.length])).toEqual([
      ['share/a.sql', 512],
      ['empty', 0],
      ['lib/postgresql/module.so', 513],
    ]);
  });

  it('refuses an archive that is cut short or has no size', () => {
    const whole = archive(entry('a', 'x'.repeat(2000)));
    expect(() => untar(whole.subarray(0, 1500), 'a.tar')).toThrow(/a\.tar is damaged at byte 0/);
    whole.set(encoder.encode('garbage'), 124);
    expect(() => untar(whole, 'a.tar')).toThrow(/a\.tar is damaged/);
  });

  it('reads several archives that were joined as one', () => {
    const joined = joinTars([
      { name: 'one', bytes: archive(entry('a', 'x'.repeat(513)), entry('empty', '')) },
      { name: 'none', bytes: archive() },
      { name: 'two', bytes: archive(entry('b', 'y')) },
    ]);
    expect(joined.length % 512).toBe(0);
    expect(untar(joined, 'joined').map(({ path, bytes }) => [path, bytes.length])).toEqual([
      ['a', 513],
      ['empty', 0],
      ['b', 1],
    ]);
  });
});
