int kcopyd_x;
