/** Damage that reads keep finding is told once an object, and again after a while; other errors are not its to tell. */
import { expect, it } from 'vitest';
import { PageliteError } from '../../engine/errors.ts';
import { damagedObjectsMax, damageLogPauseMs } from '../../engine/limits.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import { DamageLog } from '../../server/pageserver/damage-log.ts';
import { silentLog } from '../../server/process/node-host.ts';

it('tells of each damaged object once in a while', () => {
  const id = { tenantId: tenantId('a'.repeat(32)), timelineId: timelineId('b'.repeat(32)) };
  const told: unknown[] = [];
  let now = 0;
  const log = new DamageLog(
    { ...silentLog, error: (_, data) => told.push((data as { file: string }).file) },
    { now: () => now },
  );
  const damaged = (file: string) => new PageliteError('corrupt', `${file} is damaged`, { file });
  for (let i = 0; i < 3; i++) for (const file of ['x', 'y']) log.observe(id, damaged(file));
  log.observe(id, new PageliteError('unavailable', 'away', { file: 'z' }));
  expect(told).toEqual(['x', 'y']);
  now += damageLogPauseMs;
  log.observe(id, damaged('x'));
  expect(told).toEqual(['x', 'y', 'x']);
  // What is remembered is bounded: the one told longest ago is forgotten first.
  for (let i = 0; i < damagedObjectsMax; i++) log.observe(id, damaged(`more ${i}`));
  const before = told.length;
  log.observe(id, damaged('more 999'));
  log.observe(id, damaged('x'));
  expect(told.slice(before)).toEqual(['x']);
});
