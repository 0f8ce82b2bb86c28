// Vitest runs the TypeScript sources; tests that start processes or worker threads use the build in dist/ (`npm test` builds first).
import { configDefaults, defineConfig } from 'vitest/config';
import { hasCeph } from './tests/support/ceph.ts';
import { hasChromium } from './tests/web/support/chromium.ts';

/**
 * Minutes each: real browsers, a real S3 server, whole repositories with all their processes. `npm test` leaves them out, `npm run test:all` does not, and
 * a file that is named on the command line runs in any case.
 */
const long = [
  '**/*.web.test.ts',
  '**/*.s3.test.ts',
  'tests/cli/!(quickstart).pg.test.ts',
  'tests/import/*.pg.test.ts',
  'tests/faults/*',
  'tests/simulation/broken-variants.sim.test.ts',
];
const isNamed = process.argv.slice(3).some((word) => !word.startsWith('-'));
const isAll = process.argv.includes('--mode=all') || isNamed;

/** Where .ci/run wants the results as JSON, to count them. */
const report = process.env.PAGELITE_TEST_REPORT;

export default defineConfig({
  test: {
    include: ['tests/**/*.test.ts'],
    // Scenarios of a tab run where there is a Chromium, those of S3 where there is a server; in CI both have to be there.
    exclude: [
      ...configDefaults.exclude,
      ...(isAll ? [] : long),
      ...(hasChromium() ? [] : ['**/*.web.test.ts']),
      ...(hasCeph() || process.env.CI ? [] : ['**/*.s3.test.ts']),
    ],
    testTimeout: 240_000,
    hookTimeout: 240_000,
    expect: { poll: { timeout: 30_000 } },
    pool: 'forks',
    maxWorkers: 2,
    reporters: report ? ['default', ['json', { outputFile: report }]] : ['default'],
  },
});
