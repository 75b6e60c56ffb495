<?php
// phpredis in an outage. Usage: phpredis.php PORT
// After an exception it makes a new connection, as the next request of a web server would.
$port = (int) $argv[1];
$key = 'phpredis' . getenv('TWIN'); // one that works beside its like has its own
$done = $failed = $wrong = $acked = $at = 0;
$errors = [];
$r = null;
stream_set_blocking(STDIN, false);
while (true) {
    fgets(STDIN);
    if (feof(STDIN)) {
        break;
    }
    foreach (['set', 'get'] as $what) {
        try {
            if ($r === null) {
                $r = new Redis();
                $r->connect('127.0.0.1', $port);
            }
            if ($what === 'set') {
                $at++;
                $answer = $r->set($key, $at);
                $wrong += $answer !== true;
                $acked = $answer === true ? $at : $acked;
            } else {
                $value = $r->get($key);
                $wrong += !is_string($value) || (int) $value < $acked || (int) $value > $at;
            }
            $done++;
        } catch (RedisException $error) {
            $failed++;
            $errors[$error->getMessage()] = ($errors[$error->getMessage()] ?? 0) + 1;
            $r = null;
        }
    }
    if ($done === 2) {
        echo "ready\n";
    }
    usleep(10000);
}
echo json_encode(['done' => $done, 'failed' => $failed, 'wrong' => $wrong, 'alive' => true, 'errors' => $errors]), "\n";
