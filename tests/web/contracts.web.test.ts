/** The contract suites of ObjectStore, WalService and PageService in Chromium over IndexedDB: each of their tests is one here. */
import { expect, it } from 'vitest';
import { Chromium } from './local/chromium.ts';
import type { TestResult } from './local/suite.ts';

const { results, failures } = await runContracts();

async function runContracts(): Promise<{ results: TestResult[]; failures: TestResult[] }> {
  const chromium = await Chromium.launch();
  try {
    const { call } = await chromium.open('contracts');
    return { results: await call<TestResult[]>('run'), failures: await call<TestResult[]>('fail') };
  } finally {
    await chromium.close();
  }
}

it('all suites have run', () => {
  expect(results.length).toBeGreaterThan(80);
});

it('a test that fails there is heard of here', () => {
  expect(failures.map(({ error }) => error)).not.toContain(null);
  expect(failures.length).toBe(6);
});

for (const { name, error } of results) {
  it(name, () => {
    if (error !== null) throw new Error(error);
  });
}
