/** File names of relations: what PostgreSQL writes is read back, and nothing else passes for a relation. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatRelationFileName, parseDatabaseFolder, parseRelationFileName } from '../../smgr-plugin/vfs/path.ts';

const fileName = fc.record({
  backend: fc.option(fc.nat(0x7fffffff), { nil: null }),
  rel: fc.integer({ min: 1, max: 0xffffffff }),
  fork: fc.constantFrom(0 as const, 1 as const, 2 as const, 3 as const),
  segment: fc.nat(32767),
});

describe('names of relation files', () => {
  it('are read as they are written', () => {
    fc.assert(
      fc.property(fileName, (file) => {
        expect(parseRelationFileName(formatRelationFileName(file))).toEqual(file);
      }),
    );
  });

  it('are exactly what is written: whatever parses, formats to itself', () => {
    const digits = fc.stringMatching(/^[0-9]{0,11}$/);
    const pieces = fc.array(fc.oneof(digits, fc.constantFrom('t', '_', '_fsm', '_vm', '_init', '.', '_f', ' ')), {
      maxLength: 6,
    });
    fc.assert(
      fc.property(pieces, (parts) => {
        const name = parts.join('');
        const parsed = parseRelationFileName(name);
        if (parsed !== null) expect(formatRelationFileName(parsed)).toBe(name);
      }),
      { numRuns: 2000 },
    );
  });

  it.each([
    '',
    'pg_filenode.map',
    'PG_VERSION',
    'pg_control',
    '0',
    '007',
    '16384.0',
    '16384.01',
    '16384_fsm_vm',
    '16384_FSM',
    't3',
    't3_',
    '4294967296',
    '16384.99999',
    '1_init.1x',
  ])('do not include %j', (name) => {
    expect(parseRelationFileName(name)).toBeNull();
  });

  it('lie in the folders of databases', () => {
    expect(parseDatabaseFolder('global')).toEqual({ spc: 1664, db: 0 });
    expect(parseDatabaseFolder('base/5')).toEqual({ spc: 1663, db: 5 });
    for (const path of [
      '',
      'base',
      'base/',
      'base/05',
      'base/5/x',
      'base/pgsql_tmp',
      'pg_tblspc/5',
      'base/99999999999',
    ]) {
      expect(parseDatabaseFolder(path)).toBeNull();
    }
  });
});
