/** The bank of bank.ts with a few faults; `npm run faults` strikes as often as wanted. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { findFreePort } from '../../server/process/ports.ts';
import { RepositoryRig } from '../support/repository-rig.ts';
import { runBank } from './bank.ts';

const seed = Number(process.env.PAGELITE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const faultCount = Number(process.env.PAGELITE_FAULTS ?? 15);

let rig: RepositoryRig;
beforeAll(async () => {
  rig = new RepositoryRig();
  await rig.start('--num-safekeepers', '3');
  // Far from where endpoints of other tests get their ports: one of those must not answer for a compute that is down.
  await rig.endpoint('main', '--pg-port', String(await findFreePort(22_500)));
});
afterAll(() => rig.close());

it(`money is kept through ${faultCount} faults (PAGELITE_SEED=${seed})`, { timeout: 600_000 }, async () => {
  const said: string[] = [];
  const say = (text: string) => said.push(text);
  const report = await runBank({ rig, safekeeperCount: 3, seed, faultCount, say });
  expect(report.violations, said.join('\n')).toEqual([]);
  expect(Object.values(report.faults).reduce((sum, n) => sum + n)).toBe(faultCount);
  expect(report.acknowledged).toBeGreaterThan(10 * faultCount);
  expect(report.reads).toBeGreaterThan(0);
});
